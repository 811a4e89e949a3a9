package io.vggtedge

import android.os.Build
import android.os.Process
import java.io.File
import java.io.IOException

private val ABIS = setOf("arm64-v8a", "x86_64")
// The AAR's library is built for ARMv8.2 with dot products and uses the atomic instructions of ARMv8.1.
private val NEEDED = listOf("asimddp", "atomics")

/** Throws [KitException] where ExecuTorch's library would end the app, before the library is touched. */
internal fun checkDevice(cpuInfo: () -> String? = ::cpuInfo) {
    if (!Process.is64Bit() || Build.SUPPORTED_ABIS.none { it in ABIS }) {
        val process = if (Process.is64Bit()) "a" else "a 32-bit process on a"
        throw unsupported(
            "ExecuTorch has no library for $process device with ${Build.SUPPORTED_ABIS.joinToString()}",
            "take a 64-bit device, and put no 32-bit library alone into the app",
        )
    }
    if (Build.SUPPORTED_ABIS.first() != "arm64-v8a") return
    val missing = missingFeatures(cpuInfo() ?: return)
    if (missing.isEmpty()) return
    throw unsupported(
        "this processor has no ${missing.joinToString(" and no ")}, which ExecuTorch's library uses",
        "take a device with ARMv8.2 (Cortex-A55, A75 or later), or build the AAR with EXECUTORCH_BUILD_KERNELS_LLM=OFF",
    )
}

/** The features that one of the cores lacks; none where the text does not list any. */
internal fun missingFeatures(cpuInfo: String): List<String> {
    val cores = cpuInfo.lines().filter { it.startsWith("Features") }
    val features = cores.map { it.substringAfter(':').trim().split(' ') }
    return NEEDED.filter { needed -> features.any { needed !in it } }
}

private fun cpuInfo(): String? =
    try {
        File("/proc/cpuinfo").readText()
    } catch (error: IOException) {
        null
    }

internal fun unsupported(what: String, remedy: String) = KitException(KitException.Kind.UNSUPPORTED, what, remedy)
