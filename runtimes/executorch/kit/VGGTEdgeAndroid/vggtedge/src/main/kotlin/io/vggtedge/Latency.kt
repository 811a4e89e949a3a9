package io.vggtedge

import kotlin.math.ceil
import kotlin.math.max
import org.json.JSONObject

/**
 * Times of repeated runs in milliseconds, by the nearest rank.
 *
 * @property medianMs Half of the runs were not slower.
 * @property p90Ms Nine of ten runs were not slower.
 * @property p99Ms 99 of 100 runs were not slower.
 * @property runs How many runs were measured.
 */
public data class Latency(
    public val medianMs: Double,
    public val p90Ms: Double,
    public val p99Ms: Double,
    public val runs: Int,
) {
    /** The figures under the keys of the other kits. */
    public fun toJson(): JSONObject =
        JSONObject().put("median_ms", medianMs).put("p90_ms", p90Ms).put("p99_ms", p99Ms).put("runs", runs)

    /** Sums up times. */
    public companion object {
        /** From one time per run. Throws [KitException] for no runs at all. */
        public fun of(milliseconds: List<Double>): Latency {
            if (milliseconds.isEmpty()) {
                throw KitException(KitException.Kind.WRONG_INPUT, "no runs to measure", "measure at least one run")
            }
            val ordered = milliseconds.sorted()
            fun atShare(share: Double): Double = ordered[max(0, ceil(share * ordered.size).toInt() - 1)]
            return Latency(atShare(0.5), atShare(0.9), atShare(0.99), ordered.size)
        }
    }
}
