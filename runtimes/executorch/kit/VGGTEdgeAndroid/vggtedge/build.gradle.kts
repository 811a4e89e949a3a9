plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

val executorchVersion: String by project

android {
    namespace = "io.vggtedge"
    compileSdk = 35

    defaultConfig {
        minSdk = 26
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        // What the AAR of ExecuTorch brings; x86_64 is for emulators.
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    // Compressed assets cannot be mapped, and these do not get smaller.
    androidResources { noCompress += listOf("pte", "ptd", "safetensors") }
}

kotlin {
    explicitApi()
    jvmToolchain(17)
}

dependencies {
    implementation("org.pytorch:executorch-android:$executorchVersion")
    api("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")

    testImplementation("junit:junit:4.13.2")
    // The android.jar of unit tests has an org.json that only throws.
    testImplementation("org.json:json:20250107")
    androidTestImplementation("androidx.test:runner:1.6.2")
    androidTestImplementation("androidx.test.ext:junit:1.2.1")
}
