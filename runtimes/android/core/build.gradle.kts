// Pure JVM: everything about bundles, templates, tokens and figures that knows no engine and no Android.
plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(17)
    compilerOptions { allWarningsAsErrors = true }
}

dependencies {
    testImplementation(libs.kotlin.test.junit)
}

tasks.test {
    // the real tokenizer is not in the repository: python -m tools.golden.qwen_tokenizer FILE
    System.getProperty("qwen.tokenizer")?.let { systemProperty("qwen.tokenizer", it) }
}
