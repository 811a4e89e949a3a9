package io.vggtedge

/**
 * The two passes of a resampling, for the rows and the columns as they lie in memory.
 *
 * [rows] makes one row of several, [columns] one pixel of several in a row. Each pass rounds to 8 bits, so it shows
 * which one comes first.
 */
internal class Passes(val rows: ResamplingKernel, val columns: ResamplingKernel, val areRowsFirst: Boolean)

/**
 * Resamples a picture in one go over its rows.
 *
 * Each row is read once and added, weighted, to the few rows of the result that it is part of. So no copy of the
 * picture is made, neither as it is nor turned.
 */
internal class PictureResampler(
    private val source: PictureRows,
    private val passes: Passes,
    private val orientation: Orientation,
    private val target: FrameSize,
) {
    private val pixels = RgbImage.pixelsOf(target)
    private val columns = passes.columns
    private val firstColumn = columns.begin
    private val endColumn = columns.end
    private val row = IntArray(RgbImage.CHANNELS * (endColumn - firstColumn))
    private val narrow = IntArray(RgbImage.CHANNELS * columns.outputLength)

    /** Sums of rows that are not finished, from the first one on, and arrays to use again. */
    private val unfinished = ArrayDeque<IntArray>()
    private val spare = ArrayList<IntArray>()

    fun resample(): RgbImage {
        val kernel = passes.rows
        var first = 0 // of the unfinished rows
        for (index in kernel.firsts[0] until kernel.end) {
            while (isNext(first + unfinished.size, index)) unfinished.add(zeros())
            val line = read(index)
            for ((offset, sums) in unfinished.withIndex()) add(line, weight(first + offset, index), sums)
            while (unfinished.isNotEmpty() && kernel.firsts[first] + kernel.counts[first] <= index + 1) {
                finish(first, unfinished.removeFirst())
                first += 1
            }
        }
        return RgbImage.of(target, pixels)
    }

    /** Whether the row of the result begins with this row of the source, or before. */
    private fun isNext(output: Int, index: Int): Boolean =
        output < passes.rows.outputLength && passes.rows.firsts[output] <= index

    private fun weight(output: Int, index: Int): Int =
        passes.rows.weights[output * passes.rows.stride + index - passes.rows.firsts[output]]

    /** One half everywhere, so that cutting the fraction off rounds. */
    private fun zeros(): IntArray {
        val sums = spare.removeLastOrNull() ?: IntArray(if (passes.areRowsFirst) row.size else narrow.size)
        sums.fill(ResamplingKernel.HALF)
        return sums
    }

    /** The row in this place of the upright picture, or column of a transposed one; resampled if that comes first. */
    private fun read(index: Int): IntArray {
        val line = if (orientation.reversesRows) source.size.height - 1 - index else index
        source.read(line, firstColumn, endColumn, row)
        return if (passes.areRowsFirst) row else across(row)
    }

    private fun add(line: IntArray, weight: Int, sums: IntArray) {
        for (index in sums.indices) sums[index] += line[index] * weight
    }

    private fun finish(output: Int, sums: IntArray) {
        for (index in sums.indices) sums[index] = ResamplingKernel.rounded(sums[index])
        write(output, if (passes.areRowsFirst) across(sums) else sums)
        spare.add(sums)
    }

    private fun across(line: IntArray): IntArray {
        val weights = columns.weights
        for (output in 0 until columns.outputLength) {
            var red = ResamplingKernel.HALF
            var green = red
            var blue = red
            var from = RgbImage.CHANNELS * (columns.firsts[output] - firstColumn)
            val start = output * columns.stride
            for (index in start until start + columns.counts[output]) {
                val weight = weights[index]
                red += line[from] * weight
                green += line[from + 1] * weight
                blue += line[from + 2] * weight
                from += RgbImage.CHANNELS
            }
            val to = RgbImage.CHANNELS * output
            narrow[to] = ResamplingKernel.rounded(red)
            narrow[to + 1] = ResamplingKernel.rounded(green)
            narrow[to + 2] = ResamplingKernel.rounded(blue)
        }
        return narrow
    }

    /** A row of the result, or a column of it. */
    private fun write(output: Int, line: IntArray) {
        val step = RgbImage.CHANNELS * if (orientation.isTransposed) target.width else 1
        var to = RgbImage.CHANNELS * if (orientation.isTransposed) output else output * target.width
        for (from in line.indices step RgbImage.CHANNELS) {
            pixels[to] = line[from].toByte()
            pixels[to + 1] = line[from + 1].toByte()
            pixels[to + 2] = line[from + 2].toByte()
            to += step
        }
    }
}
