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

dependencies {
    api(project(":engine-api"))
    implementation(libs.onnxruntime.android)
}
