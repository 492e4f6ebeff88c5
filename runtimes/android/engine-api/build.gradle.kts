// Pure JVM: what an engine is, and all that is done with one.
plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
    // the golden vectors are read by the tests of both modules
    sourceSets.named("test") { kotlin.srcDir("../core/src/test/kotlin") }
}

dependencies {
    api(project(":core"))
    testImplementation(libs.kotlin.test.junit)
}
