package io.vggtedge

/**
 * What a check on a device found; `result.json`. Missing figures are null, never made up.
 *
 * @property kit The kit that was checked.
 * @property device What it ran on.
 * @property threads Threads that ExecuTorch used.
 * @property outputs One entry per output: the worst of the predictions that were judged.
 * @property times How long loading and predicting took.
 * @property thermal How warm the device was before and after, from `none` to `shutdown`; `unknown` before Android 10.
 * @property lowPowerMode Whether the device saved power.
 * @property memoryBytes The largest resident size of this process before judging; null where the system does not tell.
 * @property runsUnlikeFirst Predictions whose outputs are not byte for byte those of the first.
 */
public class CheckResult(
    public val kit: Kit,
    public val device: DeviceDescription,
    public val threads: Int,
    public val outputs: List<OutputAccuracy>,
    public val times: CheckTimes,
    public val thermal: ThermalStates,
    public val lowPowerMode: Boolean,
    public val memoryBytes: Long?,
    public val runsUnlikeFirst: Int,
) {
    /** `FAILED` where one output is, else `NOT_JUDGED` where one is or there are none, else `PASSED`. */
    public val verdict: Verdict
        get() {
            val verdicts = outputs.map { it.verdict }
            return when {
                Verdict.FAILED in verdicts -> Verdict.FAILED
                verdicts.isEmpty() || Verdict.NOT_JUDGED in verdicts -> Verdict.NOT_JUDGED
                else -> Verdict.PASSED
            }
        }

    /** Whether every output was judged and is close enough to the simulation. */
    public val passed: Boolean get() = verdict == Verdict.PASSED

    /** The outputs that did not pass, for the message of a test. */
    public val failures: String get() = outputs.filter { !it.passed }.joinToString("; ") { it.summary }

    /** The contents of `result.json`; the same keys in all kits. */
    public fun toJson(): String {
        val entries = outputs.map { it.toMap() }
        return jsonText(
            linkedMapOf(
                "schema_version" to Kit.SCHEMA_VERSION,
                "status" to verdict.key,
                "target" to kit.target,
                "plan_digest" to kit.planDigest,
                "model_sha256" to kit.model.sha256,
                "runtime" to linkedMapOf("name" to RUNTIME, "version" to BuildConfig.EXECUTORCH_VERSION),
                "device" to device.toMap() + ("thermal_status" to thermal.after),
                "thermal" to linkedMapOf("before" to thermal.before, "after" to thermal.after),
                "low_power_mode" to lowPowerMode,
                "threads" to threads,
                "timings_ms" to times.toMap(),
                "latency" to times.measured.toMap(),
                "load_s" to times.untilFirstPredictionMs / 1000,
                "memory_bytes" to linkedMapOf("value" to memoryBytes, "how" to "VmHWM"),
                "peak_memory_bytes" to memoryBytes,
                "runs_unlike_first" to runsUnlikeFirst,
                "outputs" to entries,
                "accuracy" to entries,
            )
        )
    }

    private companion object {
        private const val RUNTIME = "executorch-android"
    }
}

/**
 * How long the parts of a check took.
 *
 * @property loadMs Loading: the files checked, the program opened, the weights packed.
 * @property firstPredictionMs The first prediction.
 * @property untilFirstPredictionMs From opening the files to the end of the first prediction.
 * @property measured The measured predictions, from prepared frames to outputs.
 */
public data class CheckTimes(
    public val loadMs: Double,
    public val firstPredictionMs: Double,
    public val untilFirstPredictionMs: Double,
    public val measured: Latency,
) {
    internal fun toMap(): Map<String, Any?> =
        linkedMapOf(
            "compile" to null,
            "load" to loadMs,
            "first_prediction" to firstPredictionMs,
            "measured" to
                linkedMapOf(
                    "median" to measured.medianMs,
                    "p90" to measured.p90Ms,
                    "min" to measured.minMs,
                    "max" to measured.maxMs,
                    "count" to measured.runs,
                ),
        )
}

/**
 * How warm the device was, in Android's words.
 *
 * @property before Before the model was loaded.
 * @property after After the last prediction.
 */
public data class ThermalStates(public val before: String, public val after: String)

/**
 * What a check ran on.
 *
 * @property model Maker and model.
 * @property system Version of Android and of the build.
 * @property abi The instruction set that is used, such as `arm64-v8a`.
 * @property isEmulator Whether it is an emulator, whose times mean nothing.
 */
public data class DeviceDescription(
    public val model: String,
    public val system: String,
    public val abi: String,
    public val isEmulator: Boolean,
) {
    /** As in `result.json`. */
    internal fun toMap(): Map<String, Any> =
        linkedMapOf("model" to model, "system" to system, "abi" to abi, "is_emulator" to isEmulator)

    /** Describes devices. */
    public companion object
}
