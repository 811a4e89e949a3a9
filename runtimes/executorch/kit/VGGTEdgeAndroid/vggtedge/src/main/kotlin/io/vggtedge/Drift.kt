package io.vggtedge

import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.max
import kotlin.math.sqrt

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
    init {
        if (!toMap().values.all { it.isFinite() }) throw wrongInput("a drift of $this", "give finite figures")
    }

    /** The figures under the keys of the exporter's report. */
    internal fun toMap(): Map<String, Double> =
        linkedMapOf(
            "cosine" to cosine,
            "sqnr_db" to sqnrDb,
            "max_abs" to maxAbs,
            "p99_abs" to p99Abs,
            "max_rel" to maxRel,
            "p99_rel" to p99Rel,
        )

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
        @JvmStatic
        public fun of(values: FloatArray, reference: FloatArray): Drift {
            check(values, reference)
            val sums = Sums()
            for (index in values.indices) sums.add(values[index].toDouble(), reference[index].toDouble())
            val rms = sqrt(sums.truth / reference.size)
            val smallest = if (rms > 0) RELATIVE_FLOOR * rms else 1.0
            // One array for both kinds of errors: an output of eight frames has five million values.
            val errors = DoubleArray(values.size) { error(values, reference, it) }
            val maxAbs = largest(errors)
            val p99Abs = percentile(errors, HIGH_SHARE)
            for (index in errors.indices) {
                errors[index] = error(values, reference, index) / max(abs(reference[index].toDouble()), smallest)
            }
            val maxRel = largest(errors)
            return Drift(sums.cosine, sums.sqnrDb, maxAbs, p99Abs, maxRel, percentile(errors, HIGH_SHARE))
        }

        private fun error(values: FloatArray, reference: FloatArray, index: Int): Double =
            abs(values[index].toDouble() - reference[index].toDouble())

        private fun largest(values: DoubleArray): Double {
            var largest = values[0]
            for (value in values) if (value > largest) largest = value
            return largest
        }

        private fun check(values: FloatArray, reference: FloatArray) {
            if (values.isEmpty() || values.size != reference.size) {
                throw wrongInput(
                    "${values.size} values cannot be compared with ${reference.size}",
                    "compare an output with its own reference",
                )
            }
            if (values.all { it.isFinite() } && reference.all { it.isFinite() }) return
            throw KitException(
                KitException.Kind.UNUSABLE_OUTPUT,
                "NaN or infinity among the values to compare",
                "export again with the blocks of this output in fp32",
            )
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
                    else -> (product / (sqrt(value) * sqrt(truth))).coerceIn(-1.0, 1.0)
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
