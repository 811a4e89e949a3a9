// Android Gradle Plugin 9 compiles Kotlin itself: with it, leave the second line out.
plugins {
    id("com.android.library") version "8.9.1" apply false
    id("org.jetbrains.kotlin.android") version "2.1.20" apply false
}
