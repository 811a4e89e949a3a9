package io.vggtedge

import java.util.Locale

/** What a check says of an output, or of a whole device. */
public enum class Verdict {
    /** Judged, and near enough to the simulation. */
    PASSED,

    /** NaN, infinity, or too far from the simulation. */
    FAILED,

    /** Finite, but `kit.json` has no limit to judge by. */
    NOT_JUDGED;

    /** As in `result.json`. */
    internal val key: String get() = name.lowercase(Locale.ROOT)
}

/**
 * How far one output of the device is from the simulation, and, for information, from FP32.
 *
 * @property output The name of the output.
 * @property limits The limits that it is judged by.
 * @property againstSimulation Against the simulation of the same plan; null where the values are not finite.
 * @property againstFp32 Against the FP32 model; null where the kit has no such tensor or the values are not finite.
 * @property pose The angles between the cameras; null for other outputs, for one frame, and where they are no cameras.
 */
public class OutputAccuracy
private constructor(
    public val output: String,
    public val limits: Kit.Tolerances,
    public val againstSimulation: Drift?,
    public val againstFp32: Drift?,
    public val pose: PoseErrors?,
    private val hasAngles: Boolean,
) {
    /** Whether all values are finite. */
    public val finite: Boolean get() = againstSimulation != null

    /** Whether the output is finite and close enough, or nothing says how close it has to be. */
    public val verdict: Verdict
        get() =
            when {
                againstSimulation == null || isTooFar(againstSimulation) || isTurned -> Verdict.FAILED
                limits.backendSqnrDbMin == null -> Verdict.NOT_JUDGED
                else -> Verdict.PASSED
            }

    /** Whether the output is finite, judged, and close enough. */
    public val passed: Boolean get() = verdict == Verdict.PASSED

    private fun isTooFar(drift: Drift): Boolean = limits.backendSqnrDbMin?.let { drift.sqnrDb < it } ?: false

    private val isTurned: Boolean
        get() {
            val limit = limits.poseDegreesMax
            if (!hasAngles || limit == null) return false
            return pose == null || maxOf(pose.rotationDegrees, pose.translationDegrees) > limit
        }

    /** One line for people. */
    public val summary: String
        get() {
            val drift = againstSimulation ?: return "$output: NaN or infinity"
            val limit = limits.backendSqnrDbMin?.let { ", at least $it dB asked" } ?: ", no limit"
            val text = String.format(Locale.ROOT, "%s: SQNR %.2f dB against the simulation", output, drift.sqnrDb)
            return if (isTurned) "$text; cameras turned or moved by too many degrees: $pose" else text + limit
        }

    /** As in `result.json`. */
    internal fun toMap(): Map<String, Any?> {
        val map =
            linkedMapOf(
                "output" to output,
                "status" to verdict.key,
                "finite" to finite,
                "sqnr_db_min" to limits.backendSqnrDbMin,
                "against_simulation" to againstSimulation?.toMap(),
                "against_fp32" to againstFp32?.toMap(),
            )
        if (output != POSE) return map
        return map + mapOf("pose" to pose?.toMap(), "pose_degrees_max" to limits.poseDegreesMax)
    }

    /** The worse of two judgements of the same output. */
    internal fun worst(other: OutputAccuracy): OutputAccuracy =
        minOf(this, other, compareBy({ it.verdict != Verdict.FAILED }, { it.againstSimulation?.sqnrDb ?: -1e9 }))

    /** Judges outputs. */
    public companion object {
        private const val POSE = "pose_enc"

        /**
         * Judges the [values] of the output [name].
         *
         * Throws [KitException] where the golden tensors lack the output or have another number of values.
         */
        @JvmStatic
        public fun of(name: String, values: FloatArray, golden: GoldenTensors, limits: Kit.Tolerances): OutputAccuracy {
            val isFinite = values.all { it.isFinite() }
            // One reference at a time: each may have five million values.
            val againstSimulation = if (isFinite) drift(name, values, golden.simulation(name).values) else null
            val againstFp32 = if (isFinite) golden.fp32(name)?.let { drift(name, values, it.values) } else null
            val hasAngles = name == POSE && values.size > PoseEncoding.LENGTH
            val pose = if (hasAngles && isFinite) pose(values, golden.simulation(name).values) else null
            return OutputAccuracy(name, limits, againstSimulation, againstFp32, pose, hasAngles)
        }

        private fun drift(name: String, values: FloatArray, reference: FloatArray): Drift {
            val aligned = if (name == POSE) PoseEncoding.withQuaternionSigns(reference, values) else values
            return Drift.of(aligned, reference)
        }

        /** Null where one of them holds no cameras: a quaternion of length 0. */
        private fun pose(values: FloatArray, reference: FloatArray): PoseErrors? {
            val size = FrameSize(FrameSize.PATCH, FrameSize.PATCH) // angles do not depend on it
            return try {
                val (ours, truth) = listOf(values, reference).map { encoding ->
                    PoseEncoding.cameras(encoding, size).map { it.extrinsics }
                }
                PoseErrors.of(ours, truth)
            } catch (error: KitException) {
                if (error.kind == KitException.Kind.UNUSABLE_OUTPUT) null else throw error
            }
        }
    }
}
