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
internal class ResamplingKernel(
    private val sourceLength: Int,
    start: Float,
    end: Float,
    wholeLength: Int,
    kept: IntRange = 0 until wholeLength,
) {
    /** The samples of the output: those [kept] of the whole one. */
    val outputLength: Int = kept.count()

    private val scale = (end - start).toDouble() / wholeLength
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
        for (index in 0 until outputLength) fill(index, start.toDouble() + (kept.first + index + 0.5) * scale)
    }

    /** The first source sample that any output sample needs. */
    val begin: Int get() = firsts.min()

    /** Behind the last one. */
    val end: Int get() = firsts.indices.maxOf { firsts[it] + counts[it] }

    /** The same for source samples in the reverse order. */
    fun reverse() {
        for (index in 0 until outputLength) {
            firsts[index] = sourceLength - firsts[index] - counts[index]
            weights.reverse(index * stride, index * stride + counts[index])
        }
    }

    private fun fill(index: Int, center: Double) {
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
        private const val PRECISION = 22

        /** One half of a level. */
        const val HALF = 1 shl (PRECISION - 1)

        /** Half the width of the bicubic, in samples of the coarser grid. */
        private const val SUPPORT = 2.0

        /** The level of a sum of weighted levels that began with [HALF]. */
        fun rounded(sum: Int): Int = max(0, min(255, sum shr PRECISION))

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
 * seen. Throws [KitException] for a target that is not made of whole patches, or has more than 2^26 pixels.
 */
public fun RgbImage.resizedToCover(target: FrameSize): RgbImage = framed(target, Preprocess.FIT)

/**
 * The picture as a model's input of the size [target], by the [rule] of a kit; [Framing] says where its pixels went.
 *
 * Throws [KitException] as [resizedToCover] and [Framing] do.
 */
public fun RgbImage.framed(target: FrameSize, rule: Preprocess): RgbImage =
    rows.framed(target, Orientation.UPRIGHT, rule)

/** The picture turned, as a model's input. */
internal fun PictureRows.framed(target: FrameSize, orientation: Orientation, rule: Preprocess): RgbImage {
    checkTarget(target, rule.patch)
    val turned = orientation.turned(size)
    val framing = Framing(turned, target, rule)
    val content = framing.content
    val across =
        ResamplingKernel(
            turned.width,
            framing.partX.start.toFloat(),
            framing.partX.endInclusive.toFloat(),
            framing.resampled.width,
            content.left - framing.offsetX until content.right - framing.offsetX,
        )
    val down =
        ResamplingKernel(
            turned.height,
            framing.partY.start.toFloat(),
            framing.partY.endInclusive.toFloat(),
            framing.resampled.height,
            content.top - framing.offsetY until content.bottom - framing.offsetY,
        )
    // Each pass rounds to 8 bits, so their order shows. Pillow 13 begins with the columns where that drops more.
    val dropsRows = turned.height - framing.resampled.height
    val isDownFirst = dropsRows > 0 && dropsRows > 2 * (turned.width - framing.resampled.width)
    val passes =
        if (orientation.isTransposed) Passes(across, down, !isDownFirst) else Passes(down, across, isDownFirst)
    if (orientation.reversesColumns) passes.columns.reverse()
    val shown = FrameSize(across.outputLength, down.outputLength)
    val resampled = PictureResampler(this, passes, orientation, shown).resample()
    return if (framing.isFilled) resampled else onWhite(resampled, framing)
}

private fun onWhite(picture: RgbImage, framing: Framing): RgbImage {
    val pixels = RgbImage.pixelsOf(framing.target)
    pixels.fill(-1)
    val length = RgbImage.CHANNELS * picture.size.width
    for (row in 0 until picture.size.height) {
        val start = (framing.content.top + row) * framing.target.width + framing.content.left
        picture.pixels.copyInto(pixels, RgbImage.CHANNELS * start, row * length, (row + 1) * length)
    }
    return RgbImage.of(framing.target, pixels)
}

private fun checkTarget(target: FrameSize, patch: Int) {
    if (target.isMadeOf(patch) && target.pixelCount <= MOST_PIXELS) return
    throw wrongInput(
        "a model input of $target pixels is not made of whole patches, or too large",
        "use the size in kit.json; both sides are multiples of $patch",
    )
}

private const val MOST_PIXELS = 1 shl 26
