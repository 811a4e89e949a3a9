import com.android.Version
import org.jetbrains.kotlin.gradle.dsl.JvmTarget
import org.jetbrains.kotlin.gradle.tasks.KotlinJvmCompile

plugins {
    id("com.android.library")
    `maven-publish`
}

group = "io.vggtedge"
version = "0.1.0"

// Plugin 9 compiles Kotlin itself, and refuses the plugin that version 8 needs for it.
if (Version.ANDROID_GRADLE_PLUGIN_VERSION.substringBefore('.').toInt() < 9) {
    apply(plugin = "org.jetbrains.kotlin.android")
}

val executorchVersion: String by project

android {
    namespace = "io.vggtedge"
    compileSdk = 36

    defaultConfig {
        minSdk = 26
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        // fbjni calls classes by name, which R8 would drop or rename in the app.
        consumerProguardFiles("consumer-rules.pro")
        buildConfigField("String", "EXECUTORCH_VERSION", "\"$executorchVersion\"")
    }

    buildFeatures { buildConfig = true }

    publishing { singleVariant("release") { withSourcesJar() } }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

// ./gradlew :vggtedge:publishToMavenLocal, or a repository of your own under `repositories`.
publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "vggtedge"
            afterEvaluate { from(components["release"]) }
        }
    }
}

// Not a toolchain: that would ask for a second JDK.
tasks.withType<KotlinJvmCompile>().configureEach {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_17)
        if (!name.contains("Test")) freeCompilerArgs.add("-Xexplicit-api=strict")
    }
}

dependencies {
    implementation("org.pytorch:executorch-android:$executorchVersion")
    implementation("androidx.annotation:annotation:1.9.1")
    api("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")

    testImplementation("junit:junit:4.13.2")
    androidTestImplementation("androidx.test:runner:1.6.2")
    androidTestImplementation("androidx.test.ext:junit:1.2.1")
}
