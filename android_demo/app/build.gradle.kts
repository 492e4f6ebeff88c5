plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "org.qwenedge.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        applicationId = "org.qwenedge.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "1"
        // phones, and the emulator on a computer
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
        // ExecuTorch's library does not tell its version
        buildConfigField("String", "EXECUTORCH_VERSION", "\"${libs.versions.executorch.get()}\"")
    }
    buildFeatures { buildConfig = true }
    // both engines bring a libc++; either will do
    packaging { jniLibs { pickFirsts += "**/libc++_shared.so" } }
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

dependencies {
    implementation(project(":engine-onnxruntime"))
    implementation(project(":engine-executorch"))
    implementation(project(":probe"))
}
