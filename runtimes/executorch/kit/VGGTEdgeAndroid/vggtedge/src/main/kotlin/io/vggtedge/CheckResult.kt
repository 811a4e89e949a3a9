package io.vggtedge

import org.json.JSONArray
import org.json.JSONObject

/**
 * What a check on a device found; `result.json`. Missing figures are null, never made up.
 *
 * @property kit The kit that was checked.
 * @property device What it ran on.
 * @property threads Threads that ExecuTorch was asked to use; 0: its own choice.
 * @property accuracy One entry per output.
 * @property latency Wall-clock times of a prediction, from prepared frames to outputs.
 * @property loadSeconds Seconds from opening the files to the end of the first prediction.
 * @property peakMemoryBytes The largest resident size of this process so far; null where the system does not tell.
 */
public class CheckResult(
    public val kit: Kit,
    public val device: DeviceDescription,
    public val threads: Int,
    public val accuracy: List<OutputAccuracy>,
    public val latency: Latency,
    public val loadSeconds: Double,
    public val peakMemoryBytes: Long?,
) {
    /** Whether every output is close enough to the simulation. */
    public val passed: Boolean get() = accuracy.all { it.passed }

    /** The outputs that are too far away, for the message of a test. */
    public val failures: String get() = accuracy.filter { !it.passed }.joinToString("; ") { it.summary }

    /** The contents of `result.json`. */
    public fun toJson(): JSONObject =
        JSONObject()
            .put("schema_version", Kit.SCHEMA_VERSION)
            .put("target", kit.target)
            .put("plan_digest", kit.planDigest)
            .put("model_sha256", kit.model.sha256)
            .put("device", device.toJson())
            .put("threads", threads)
            .put("accuracy", JSONArray(accuracy.map { it.toJson() }))
            .put("latency", latency.toJson())
            .put("load_s", loadSeconds)
            .put("peak_memory_bytes", peakMemoryBytes ?: JSONObject.NULL)
}

/**
 * What a check ran on.
 *
 * @property model Maker and model.
 * @property system Version of Android and of the build.
 * @property abi The instruction set that is used, such as `arm64-v8a`.
 * @property thermalStatus How warm the device was at the end, from `none` to `shutdown`; `unknown` before Android 10.
 * @property isEmulator Whether it is an emulator, whose times mean nothing.
 */
public data class DeviceDescription(
    public val model: String,
    public val system: String,
    public val abi: String,
    public val thermalStatus: String,
    public val isEmulator: Boolean,
) {
    /** As in `result.json`. */
    public fun toJson(): JSONObject =
        JSONObject()
            .put("model", model)
            .put("system", system)
            .put("abi", abi)
            .put("thermal_status", thermalStatus)
            .put("is_emulator", isEmulator)

    /** Describes devices. */
    public companion object
}

/**
 * How far one output of the device is from the simulation, and, for information, from FP32.
 *
 * @property output The name of the output.
 * @property sqnrDbMin The limit for the SQNR against the simulation, in dB; null: not judged.
 * @property againstSimulation Against the simulation of the same plan; null where the values are not finite.
 * @property againstFp32 Against the FP32 model; null where the kit has no such tensor or the values are not finite.
 */
public class OutputAccuracy
private constructor(
    public val output: String,
    public val sqnrDbMin: Double?,
    public val againstSimulation: Drift?,
    public val againstFp32: Drift?,
) {
    /** Whether all values are finite. */
    public val finite: Boolean get() = againstSimulation != null

    /** Whether the output is finite and close enough. */
    public val passed: Boolean
        get() = againstSimulation != null && againstSimulation.sqnrDb >= (sqnrDbMin ?: -Drift.LIMIT_DB)

    /** One line for people. */
    public val summary: String
        get() {
            val drift = againstSimulation ?: return "$output: NaN or infinity"
            val limit = sqnrDbMin?.let { ", at least $it dB asked" }.orEmpty()
            return "$output: SQNR ${"%.2f".format(drift.sqnrDb)} dB against the simulation$limit"
        }

    /** As in `result.json`. */
    public fun toJson(): JSONObject =
        JSONObject()
            .put("output", output)
            .put("status", if (passed) "passed" else "failed")
            .put("finite", finite)
            .put("sqnr_db_min", sqnrDbMin ?: JSONObject.NULL)
            .put("against_simulation", againstSimulation?.toJson() ?: JSONObject.NULL)
            .put("against_fp32", againstFp32?.toJson() ?: JSONObject.NULL)

    /** Judges outputs. */
    public companion object {
        /**
         * Judges the [values] of the output [name].
         *
         * Throws [KitException] where the golden tensors lack the output or have another number of values.
         */
        public fun of(name: String, values: FloatArray, golden: GoldenTensors, limit: Kit.Tolerances): OutputAccuracy {
            val simulation =
                golden.simulation[name]
                    ?: throw KitException(
                        KitException.Kind.DAMAGED_FILE,
                        "the golden tensors have no simulation of $name",
                        "take kit.json and the golden tensors out of the same bundle",
                    )
            val finite = values.all { it.isFinite() }
            fun drift(reference: FloatTensor?): Drift? =
                if (finite && reference != null) drift(name, values, reference.values) else null
            return OutputAccuracy(name, limit.backendSqnrDbMin, drift(simulation), drift(golden.fp32[name]))
        }

        private fun drift(name: String, values: FloatArray, reference: FloatArray): Drift {
            val aligned = if (name == "pose_enc") PoseEncoding.withQuaternionSigns(reference, values) else values
            return Drift.of(aligned, reference)
        }
    }
}
