package io.vggtedge

import android.content.Context
import android.os.Build
import android.os.PowerManager
import java.io.File
import java.io.IOException

/**
 * Golden tensors and latency as one call. For a debug menu, or an instrumented test.
 *
 * ```kotlin
 * val result = DeviceCheck(context, folder).run()
 * Log.i("VGGTEdge", result.toJson().toString(2))
 * ```
 *
 * @property context Any context of the app.
 * @property folder The folder with `kit.json`, the program and the golden tensors.
 * @property threads Threads for ExecuTorch; 0: its own choice.
 * @property warmUpRuns Predictions before the measured ones.
 * @property measuredRuns Predictions that are measured, at least one.
 */
public class DeviceCheck(
    public val context: Context,
    public val folder: File,
    public val threads: Int = 0,
    public val warmUpRuns: Int = 3,
    public val measuredRuns: Int = 20,
) {
    /**
     * Compares the files with `kit.json`, replays the golden input, and measures.
     *
     * Returns the figures, also where an output is too far from the simulation: look at [CheckResult.passed]. Throws
     * [KitException] if the model cannot be loaded or run, or a file is not what `kit.json` lists.
     */
    public suspend fun run(): CheckResult {
        val golden = GoldenTensors.read(Kit.read(folder), folder)
        val start = System.nanoTime()
        return VGGTModel.load(folder, threads).use { model ->
            val prediction = model.predict(golden.images.values)
            val loadSeconds = (System.nanoTime() - start) / NANOS_PER_SECOND
            CheckResult(
                kit = model.kit,
                device = DeviceDescription.current(context),
                threads = threads,
                accuracy = judge(prediction, golden, model.kit),
                latency = measure(model, golden),
                loadSeconds = loadSeconds,
                peakMemoryBytes = peakMemoryBytes(),
            )
        }
    }

    private fun judge(prediction: Prediction, golden: GoldenTensors, kit: Kit): List<OutputAccuracy> =
        kit.outputs.map { output ->
            val values = prediction.outputs.getValue(output.name).values
            OutputAccuracy.of(output.name, values, golden, kit.tolerances)
        }

    private suspend fun measure(model: VGGTModel, golden: GoldenTensors): Latency {
        repeat(warmUpRuns) { model.predict(golden.images.values) }
        val times = List(measuredRuns) {
            val start = System.nanoTime()
            model.predict(golden.images.values)
            (System.nanoTime() - start) / NANOS_PER_MILLISECOND
        }
        return Latency.of(times)
    }

    private companion object {
        const val NANOS_PER_SECOND = 1e9
        const val NANOS_PER_MILLISECOND = 1e6
    }
}

/** The largest resident size of this process so far, from what Linux tells. */
internal fun peakMemoryBytes(): Long? =
    try {
        File("/proc/self/status").useLines { lines ->
            val line = lines.firstOrNull { it.startsWith("VmHWM:") }
            line?.filter(Char::isDigit)?.toLongOrNull()?.times(1024)
        }
    } catch (error: IOException) {
        null
    }

/** This device, now. */
public fun DeviceDescription.Companion.current(context: Context): DeviceDescription =
    DeviceDescription(
        model = "${Build.MANUFACTURER} ${Build.MODEL}",
        system = "Android ${Build.VERSION.RELEASE} (${Build.ID})",
        abi = Build.SUPPORTED_ABIS.firstOrNull().orEmpty(),
        thermalStatus = thermalStatus(context),
        isEmulator = Build.HARDWARE in setOf("goldfish", "ranchu") || Build.FINGERPRINT.startsWith("generic"),
    )

private fun thermalStatus(context: Context): String {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return "unknown"
    val power = context.getSystemService(PowerManager::class.java) ?: return "unknown"
    return when (power.currentThermalStatus) {
        PowerManager.THERMAL_STATUS_NONE -> "none"
        PowerManager.THERMAL_STATUS_LIGHT -> "light"
        PowerManager.THERMAL_STATUS_MODERATE -> "moderate"
        PowerManager.THERMAL_STATUS_SEVERE -> "severe"
        PowerManager.THERMAL_STATUS_CRITICAL -> "critical"
        PowerManager.THERMAL_STATUS_EMERGENCY -> "emergency"
        PowerManager.THERMAL_STATUS_SHUTDOWN -> "shutdown"
        else -> "unknown"
    }
}
