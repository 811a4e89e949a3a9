package io.vggtedge

import android.content.Context
import android.os.Build
import android.os.PowerManager
import androidx.annotation.IntRange
import java.io.File
import java.io.IOException
import java.util.concurrent.CompletableFuture
import kotlinx.coroutines.withContext

/**
 * Golden tensors and latency as one call. For a debug menu, or an instrumented test.
 *
 * Computes on threads of the kit's own. Holds one output at a time.
 *
 * ```kotlin
 * val result = DeviceCheck(context, folder).run()
 * Log.i("VGGTEdge", result.toJson())
 * ```
 *
 * @property context Any context of the app.
 * @property folder The folder with `kit.json`, the program and the golden tensors.
 * @property threads Threads for ExecuTorch, as for [VGGTModel.load].
 * @property warmUpRuns Predictions before the measured ones, besides the first one.
 * @property measuredRuns Predictions that are measured, at least one.
 */
public class DeviceCheck
@JvmOverloads
constructor(
    public val context: Context,
    public val folder: File,
    @param:IntRange(from = 0) public val threads: Int = 0,
    @param:IntRange(from = 0) public val warmUpRuns: Int = 3,
    @param:IntRange(from = 1) public val measuredRuns: Int = 20,
) {
    init {
        RuntimeThreads.check(threads)
        if (warmUpRuns < 0 || measuredRuns < 1) {
            throw wrongInput("$warmUpRuns and $measuredRuns runs", "warm up 0 times or more, and measure at least once")
        }
    }

    /**
     * Compares the files with `kit.json`, replays the golden input, and measures.
     *
     * The first and the last prediction are judged against the simulation, and every other one that is not byte for
     * byte the first. Returns the figures, also where an output is too far away: look at [CheckResult.verdict]. Throws
     * [KitException] if the model cannot be loaded or run, or a file is not what `kit.json` lists.
     */
    public suspend fun run(): CheckResult {
        val before = thermalStatus(context)
        val golden = withContext(ModelLoader.dispatcher) { GoldenTensors.read(Kit.read(folder), folder) }
        val start = System.nanoTime()
        val model = VGGTModel.load(folder, threads)
        val loadMs = millisecondsSince(start)
        try {
            val replay = CheckReplay(model, golden)
            val firstMs = replay.predict(isJudged = true)
            val untilFirstMs = loadMs + firstMs
            repeat(warmUpRuns) { replay.predict(isJudged = false) }
            val times = List(measuredRuns) { replay.predict(isJudged = it == measuredRuns - 1) }
            return CheckResult(
                kit = model.kit,
                device = DeviceDescription.current(),
                threads = model.threads,
                outputs = replay.outputs,
                times = CheckTimes(loadMs, firstMs, untilFirstMs, Latency.of(times)),
                thermal = ThermalStates(before, thermalStatus(context)),
                lowPowerMode = context.getSystemService(PowerManager::class.java)?.isPowerSaveMode ?: false,
                memoryBytes = replay.memoryBytes,
                runsUnlikeFirst = replay.runsUnlikeFirst,
            )
        } finally {
            model.close()
        }
    }

    /** [run] for Java. */
    public fun runAsync(): CompletableFuture<CheckResult> = future { run() }
}

internal fun millisecondsSince(start: Long): Double = (System.nanoTime() - start) / 1e6

/** Predicts from the golden input again and again, and judges what comes out. */
private class CheckReplay(private val model: VGGTModel, private val golden: GoldenTensors) {
    private val worst = LinkedHashMap<String, OutputAccuracy>()
    private var firstDigest: String? = null

    var runsUnlikeFirst = 0
        private set

    var memoryBytes: Long? = null
        private set

    val outputs: List<OutputAccuracy> get() = worst.values.toList()

    /** Milliseconds of one prediction. One that is not like the first is judged in any case. */
    suspend fun predict(isJudged: Boolean): Double =
        model.run { program ->
            val images = golden.images().values
            val start = System.nanoTime()
            val outputs = program.run { it.put(images) }
            val time = millisecondsSince(start)
            if (firstDigest == null) memoryBytes = peakMemoryBytes()
            val digest = outputs.digest()
            val isUnlike = firstDigest != null && digest != firstDigest
            firstDigest = firstDigest ?: digest
            if (isUnlike) runsUnlikeFirst += 1
            if (isJudged || isUnlike) judge(outputs)
            time
        }

    private fun judge(outputs: ProgramOutputs) {
        for (output in model.kit.outputs) {
            val name = output.name
            val accuracy = OutputAccuracy.of(name, outputs.values(name), golden, model.kit.tolerances)
            worst[name] = worst[name]?.worst(accuracy) ?: accuracy
        }
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

/** This device. */
public fun DeviceDescription.Companion.current(): DeviceDescription =
    DeviceDescription(
        model = "${Build.MANUFACTURER} ${Build.MODEL}",
        system = "Android ${Build.VERSION.RELEASE} (${Build.ID})",
        abi = Build.SUPPORTED_ABIS.firstOrNull().orEmpty(),
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
