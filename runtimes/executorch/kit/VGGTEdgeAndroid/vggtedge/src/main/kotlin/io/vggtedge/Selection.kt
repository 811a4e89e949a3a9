package io.vggtedge

import kotlin.math.floor

/**
 * The percentile at a share from 0 to 1 of values in any order, at least one, linearly interpolated between ranks.
 *
 * Reorders the values.
 */
internal fun percentile(values: DoubleArray, share: Double): Double {
    val position = share * (values.size - 1)
    val below = floor(position).toInt()
    val low = select(values, below)
    // Behind the selected place lies nothing smaller: the next rank is the least of what is there.
    var high = low
    if (below + 1 < values.size) {
        high = Double.POSITIVE_INFINITY
        for (index in below + 1 until values.size) if (values[index] < high) high = values[index]
    }
    return low + (high - low) * (position - below)
}

/** The value that would stand at [rank] if [values] were sorted; smaller ones come before it, larger ones behind. */
internal fun select(values: DoubleArray, rank: Int): Double {
    var from = 0
    var last = values.size - 1
    var rounds = 0
    while (last > from) {
        // Values made to defeat the choice of pivots: sorting what is left has a bound.
        rounds += 1
        if (rounds > MOST_ROUNDS) {
            values.sort(from, last + 1)
            break
        }
        val pivot = pivot(values, from, last)
        var left = from
        var right = last
        while (left <= right) {
            while (values[left] < pivot) left += 1
            while (values[right] > pivot) right -= 1
            if (left > right) break
            val value = values[left]
            values[left] = values[right]
            values[right] = value
            left += 1
            right -= 1
        }
        when {
            rank <= right -> last = right
            rank >= left -> from = left
            else -> break
        }
    }
    return values[rank]
}

private const val MOST_ROUNDS = 100

/** The median of the first, the middle and the last value. */
private fun pivot(values: DoubleArray, from: Int, last: Int): Double {
    val first = values[from]
    val middle = values[(from + last) ushr 1]
    val end = values[last]
    return maxOf(minOf(first, middle), minOf(maxOf(first, middle), end))
}
