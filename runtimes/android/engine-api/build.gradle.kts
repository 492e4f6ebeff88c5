// Pure JVM: what an engine is, and all that is done with one.
plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

dependencies {
    api(project(":core"))
    testImplementation(libs.kotlin.test.junit)
}

sourceSets {
    // the golden vectors are read by the tests of both modules
    test { kotlin.srcDir("../core/src/test/kotlin") }
}
