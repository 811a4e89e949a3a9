package io.vggtedge

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min

/**
 * Which source samples make one output sample along one axis, and with which weights.
 *
 * Bicubic (a = -0.5) with antialiasing, in fixed point with 22 bits. It is the arithmetic of Pillow's resize for 8-bit
 * pictures, which the exporter's readers use: the same frame gives the same bytes here and there (Pillow 13).
 *
 * The part that is shown goes from [start] to [end], in source samples.
 */
internal class ResamplingKernel(sourceLength: Int, start: Float, end: Float, val outputLength: Int) {
    private val scale = (end - start).toDouble() / outputLength
    private val reach = SUPPORT * max(scale, 1.0)

    /** From the weights of one output sample to those of the next. */
    val stride: Int = ceil(reach).toInt() * 2 + 1

    /** The first source sample of each output sample. */
    val firsts = IntArray(outputLength)

    /** How many source samples make each output sample. */
    val counts = IntArray(outputLength)

    /** [stride] weights per output sample, of which as many as its count are used. */
    val weights = IntArray(outputLength * stride)

    init {
        for (index in 0 until outputLength) fill(index, start.toDouble() + (index + 0.5) * scale, sourceLength)
    }

    private fun fill(index: Int, center: Double, sourceLength: Int) {
        val first = max(0, (center - reach + 0.5).toInt())
        val count = min(sourceLength, (center + reach + 0.5).toInt()) - first
        val narrowing = 1 / max(scale, 1.0)
        val exact = DoubleArray(count) { bicubic((it + first - center + 0.5) * narrowing) }
        val total = exact.sum()
        for ((offset, weight) in exact.withIndex()) {
            weights[index * stride + offset] = fixedPoint(if (total == 0.0) weight else weight / total)
        }
        firsts[index] = first
        counts[index] = count
    }

    companion object {
        /** Bits behind the point of a weight. */
        const val PRECISION = 22

        /** Half the width of the bicubic, in samples of the coarser grid. */
        private const val SUPPORT = 2.0

        private fun bicubic(position: Double): Double {
            val x = abs(position)
            return when {
                x < 1 -> ((1.5 * x - 2.5) * x) * x + 1
                x < 2 -> (((x - 5) * x + 8) * x - 4) * -0.5
                else -> 0.0
            }
        }

        /** Rounds halves away from zero. */
        private fun fixedPoint(weight: Double): Int =
            (weight * (1 shl PRECISION) + if (weight < 0) -0.5 else 0.5).toInt()
    }
}

/**
 * The picture scaled until it covers [target] and cropped evenly.
 *
 * Scale and crop are one bicubic, antialiased resampling, so that the crop may fall between pixels and
 * [Intrinsics.resized] is exact. Give the model frames of about its own aspect ratio: what the crop takes away is not
 * seen. Throws [KitException] for a target that is not made of whole patches.
 */
public fun RgbImage.resizedToCover(target: FrameSize): RgbImage {
    if (!target.isWholePatches) {
        throw KitException(
            KitException.Kind.WRONG_INPUT,
            "a model input of $target pixels is not made of whole patches",
            "use the size in kit.json; both sides are multiples of ${FrameSize.PATCH}",
        )
    }
    val crop = FrameCrop(size, target)
    val across = Pass(crop.left.toFloat(), (crop.left + crop.width).toFloat(), target.width)
    val down = Pass(crop.top.toFloat(), (crop.top + crop.height).toFloat(), target.height)
    // Each pass rounds to 8 bits, so their order shows. Pillow 13 begins with the columns where that drops more.
    val dropsRows = size.height - target.height
    val isDownFirst = dropsRows > 0 && dropsRows > 2 * (size.width - target.width)
    return if (isDownFirst) down(down).across(across) else across(across).down(down)
}

/** The part from [start] to [end] of one axis becomes [length] samples. */
private class Pass(val start: Float, val end: Float, val length: Int) {
    fun changes(sourceLength: Int): Boolean = length != sourceLength || start != 0f || end != length.toFloat()

    fun kernel(sourceLength: Int) = ResamplingKernel(sourceLength, start, end, length)
}

/** Every row on its own. */
private fun RgbImage.across(pass: Pass): RgbImage {
    if (!pass.changes(size.width)) return this
    val kernel = pass.kernel(size.width)
    val output = FrameSize(pass.length, size.height)
    val result = ByteArray(3 * output.pixelCount)
    for (row in 0 until output.height) {
        for (column in 0 until output.width) {
            val from = 3 * (row * size.width + kernel.firsts[column])
            weigh(pixels, from, 3, kernel, column, result, 3 * (row * output.width + column))
        }
    }
    return RgbImage.of(output, result)
}

/** Every column on its own. */
private fun RgbImage.down(pass: Pass): RgbImage {
    if (!pass.changes(size.height)) return this
    val kernel = pass.kernel(size.height)
    val output = FrameSize(size.width, pass.length)
    val result = ByteArray(3 * output.pixelCount)
    for (row in 0 until output.height) {
        for (column in 0 until output.width) {
            val from = 3 * (kernel.firsts[row] * size.width + column)
            weigh(pixels, from, 3 * size.width, kernel, row, result, 3 * (row * output.width + column))
        }
    }
    return RgbImage.of(output, result)
}

/** Red, green and blue of one output pixel; [step] bytes lie between its source pixels. */
private fun weigh(
    source: ByteArray,
    from: Int,
    step: Int,
    kernel: ResamplingKernel,
    index: Int,
    result: ByteArray,
    to: Int,
) {
    // One half, so that cutting the fraction off rounds.
    var red = 1 shl (ResamplingKernel.PRECISION - 1)
    var green = red
    var blue = red
    var pixel = from
    val first = index * kernel.stride
    for (offset in first until first + kernel.counts[index]) {
        val weight = kernel.weights[offset]
        red += (source[pixel].toInt() and 0xff) * weight
        green += (source[pixel + 1].toInt() and 0xff) * weight
        blue += (source[pixel + 2].toInt() and 0xff) * weight
        pixel += step
    }
    result[to] = rounded(red)
    result[to + 1] = rounded(green)
    result[to + 2] = rounded(blue)
}

private fun rounded(sum: Int): Byte = (sum shr ResamplingKernel.PRECISION).coerceIn(0, 255).toByte()
