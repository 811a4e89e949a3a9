package io.vggtedge

import kotlin.math.ceil
import kotlin.math.max

/**
 * Times of repeated runs in milliseconds, by the nearest rank.
 *
 * @property medianMs Half of the runs were not slower.
 * @property p90Ms Nine of ten runs were not slower.
 * @property p99Ms 99 of 100 runs were not slower.
 * @property minMs The fastest run.
 * @property maxMs The slowest run.
 * @property runs How many runs were measured.
 */
public data class Latency(
    public val medianMs: Double,
    public val p90Ms: Double,
    public val p99Ms: Double,
    public val minMs: Double,
    public val maxMs: Double,
    public val runs: Int,
) {
    init {
        val times = listOf(medianMs, p90Ms, p99Ms, minMs, maxMs)
        if (runs < 1 || !times.all { it.isFinite() && it >= 0 }) {
            throw wrongInput("times of $times ms over $runs runs", "measure one run or more, in milliseconds from 0 up")
        }
    }

    /** The figures under the keys of the other kits. */
    internal fun toMap(): Map<String, Any> =
        linkedMapOf("median_ms" to medianMs, "p90_ms" to p90Ms, "p99_ms" to p99Ms, "runs" to runs)

    /** Sums up times. */
    public companion object {
        /** From one time per run. Throws [KitException] for no runs at all, and for times below 0 or not finite. */
        @JvmStatic
        public fun of(milliseconds: List<Double>): Latency {
            if (milliseconds.isEmpty()) throw wrongInput("no runs to measure", "measure at least one run")
            val ordered = milliseconds.sorted()
            fun atShare(share: Double): Double = ordered[max(0, ceil(share * ordered.size).toInt() - 1)]
            return Latency(atShare(0.5), atShare(0.9), atShare(0.99), ordered.first(), ordered.last(), ordered.size)
        }
    }
}
