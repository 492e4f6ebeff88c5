plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "org.qwenedge.engine.onnxruntime"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig { minSdk = libs.versions.minSdk.get().toInt() }
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

// the tests run where ONNX Runtime's Java library is there for the computer, and are skipped elsewhere
android.sourceSets["test"].kotlin.srcDirs("../core/src/test/kotlin", "../engine-api/src/test/kotlin")

dependencies {
    api(project(":engine-api"))
    implementation(libs.onnxruntime.android)
    testImplementation(libs.kotlin.test.junit)
}
