plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "org.qwenedge.engine.executorch"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig { minSdk = libs.versions.minSdk.get().toInt() }
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

dependencies {
    api(project(":engine-api"))
    implementation(libs.executorch.android)
}
