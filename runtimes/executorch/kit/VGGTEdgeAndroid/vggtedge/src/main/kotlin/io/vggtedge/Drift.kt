package io.vggtedge

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.log10
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt
import org.json.JSONObject

/**
 * How far values are from their reference: the figures of the exporter's report, computed the same way.
 *
 * Everything is computed in double precision over all elements. A relative error is taken against the larger of the
 * reference's magnitude and a thousandth of its root mean square.
 *
 * @property cosine The cosine of the angle between the two; 1 for two zero vectors, 0 for one.
 * @property sqnrDb Signal to quantization noise in dB, kept within -200 and 200; equal values give 200.
 * @property maxAbs The largest absolute error.
 * @property p99Abs The 99th percentile of the absolute error.
 * @property maxRel The largest relative error.
 * @property p99Rel The 99th percentile of the relative error.
 */
public data class Drift(
    public val cosine: Double,
    public val sqnrDb: Double,
    public val maxAbs: Double,
    public val p99Abs: Double,
    public val maxRel: Double,
    public val p99Rel: Double,
) {
    /** The figures under the keys of the exporter's report. */
    public fun toJson(): JSONObject =
        JSONObject()
            .put("cosine", cosine)
            .put("sqnr_db", sqnrDb)
            .put("max_abs", maxAbs)
            .put("p99_abs", p99Abs)
            .put("max_rel", maxRel)
            .put("p99_rel", p99Rel)

    /** Measures drift. */
    public companion object {
        internal const val LIMIT_DB: Double = 200.0
        private const val RELATIVE_FLOOR = 1e-3
        private const val HIGH_SHARE = 0.99

        /**
         * The drift of [values] from [reference], as many values in the same order.
         *
         * Throws [KitException] for different or empty lengths, NaN or infinity.
         */
        public fun of(values: FloatArray, reference: FloatArray): Drift {
            check(values, reference)
            val sums = Sums()
            val errors = DoubleArray(values.size) { abs(values[it].toDouble() - reference[it].toDouble()) }
            for (index in values.indices) sums.add(values[index].toDouble(), reference[index].toDouble())
            val rms = sqrt(sums.truth / reference.size)
            val smallest = if (rms > 0) RELATIVE_FLOOR * rms else 1.0
            val relative = DoubleArray(values.size) { errors[it] / max(abs(reference[it].toDouble()), smallest) }
            errors.sort()
            relative.sort()
            return Drift(
                cosine = sums.cosine,
                sqnrDb = sums.sqnrDb,
                maxAbs = errors.last(),
                p99Abs = percentile(errors, HIGH_SHARE),
                maxRel = relative.last(),
                p99Rel = percentile(relative, HIGH_SHARE),
            )
        }

        private fun check(values: FloatArray, reference: FloatArray) {
            if (values.isEmpty() || values.size != reference.size) {
                throw KitException(
                    KitException.Kind.WRONG_INPUT,
                    "${values.size} values cannot be compared with ${reference.size}",
                    "compare an output with its own reference",
                )
            }
            if (values.any { !it.isFinite() } || reference.any { !it.isFinite() }) {
                throw KitException(
                    KitException.Kind.UNUSABLE_OUTPUT,
                    "NaN or infinity among the values to compare",
                    "export again with the blocks of this output in fp32",
                )
            }
        }
    }

    /** What one pass over the values collects. */
    private class Sums {
        var value = 0.0
        var truth = 0.0
        var product = 0.0
        var noise = 0.0

        fun add(value: Double, truth: Double) {
            this.value += value * value
            this.truth += truth * truth
            product += value * truth
            noise += (value - truth) * (value - truth)
        }

        val cosine: Double
            get() =
                when {
                    value == 0.0 || truth == 0.0 -> if (value == truth) 1.0 else 0.0
                    else -> product / (sqrt(value) * sqrt(truth))
                }

        val sqnrDb: Double
            get() =
                when {
                    noise == 0.0 -> LIMIT_DB
                    truth == 0.0 -> -LIMIT_DB
                    else -> (10 * (log10(truth) - log10(noise))).coerceIn(-LIMIT_DB, LIMIT_DB)
                }
    }
}

/** The percentile at a share from 0 to 1 of sorted values, at least one, linearly interpolated between ranks. */
internal fun percentile(sorted: DoubleArray, share: Double): Double {
    val position = share * (sorted.size - 1)
    val below = floor(position).toInt()
    val above = min(below + 1, sorted.size - 1)
    return sorted[below] + (sorted[above] - sorted[below]) * (position - below)
}
