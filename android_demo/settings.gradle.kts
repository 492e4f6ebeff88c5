pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS
    repositories {
        google {
            content { includeGroupByRegex("com\\.android.*|com\\.google.*|androidx.*") }
        }
        mavenCentral()
    }
}

rootProject.name = "qwen-edge"
include(":app")

// the library: copy these folders into your own project, or include them from here
for (module in listOf("core", "engine-api", "engine-onnxruntime", "engine-executorch", "probe")) {
    include(":$module")
    project(":$module").projectDir = file("../runtimes/android/$module")
}
