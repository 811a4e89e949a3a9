package io.vggtedge

import kotlin.math.max
import kotlin.math.min

/**
 * How a picture becomes the model's input; `kit.json` says which rule the model was exported with.
 *
 * @property mode What happens to a picture of another shape than the model's input.
 * @property patch `CROP` and `PAD` round the scaled side to a multiple of so many pixels.
 */
public data class Preprocess
@JvmOverloads
constructor(public val mode: Mode, public val patch: Int = FrameSize.PATCH) {
    init {
        if (patch !in 1..MOST_SCALED) throw wrongInput("a patch of $patch pixels", "give 1 to $MOST_SCALED")
    }

    /** What happens to a picture of another shape. */
    public enum class Mode {
        /** Scaled until it covers the input, cropped evenly. */
        FIT,

        /** Scaled to the input's width; its height is cropped evenly, or filled up with white. VGGT's default. */
        CROP,

        /** Scaled until all of it is inside; the rest is white. */
        PAD,
    }

    /** The rule of kits that name none. */
    public companion object {
        /** Scaled until it covers the input, cropped evenly. */
        @JvmField public val FIT: Preprocess = Preprocess(Mode.FIT)

        /** No picture is scaled to more pixels a side, however little of it is shown then. */
        internal const val MOST_SCALED = 1 shl 15
    }
}

/** Where the centre of the first pixel lies when depth becomes points. */
public enum class PixelCenters {
    /** At 0.5: the image spans 0 to its width. */
    HALF,

    /** At 0, as in VGGT's first releases. */
    INTEGER;

    /** From the corner of the image. */
    internal val place: Double get() = if (this == HALF) 0.5 else 0.0
}

/**
 * A rectangle of whole pixels.
 *
 * @property left The first column.
 * @property top The first row.
 * @property right The first column behind it.
 * @property bottom The first row below it.
 */
public data class FrameArea(
    public val left: Int,
    public val top: Int,
    public val right: Int,
    public val bottom: Int,
) {
    /** Whether a pixel is inside. */
    public fun contains(column: Int, row: Int): Boolean = column in left until right && row in top until bottom
}

/**
 * Where the pixels of an upright picture of the size [source] land in a model's input of the size [target], and back.
 *
 * Pixel coordinates are continuous, the top-left corner of an image is (0, 0). Throws [KitException] for a strip so
 * tall that `CROP` would scale it to more than 32768 pixels.
 *
 * @property target The size of the model's input.
 */
public class Framing(source: FrameSize, public val target: FrameSize, rule: Preprocess) {
    private val cover = FrameCrop(source, target)
    private val isFit = rule.mode == Preprocess.Mode.FIT

    /** The size that the resampled part of the picture becomes. */
    internal val resampled: FrameSize = if (isFit) target else scaled(source, target, rule)

    /** The part of the picture that is resampled. */
    internal val partX: ClosedRange<Double> =
        if (isFit) cover.left..cover.left + cover.width else 0.0..source.width.toDouble()

    internal val partY: ClosedRange<Double> =
        if (isFit) cover.top..cover.top + cover.height else 0.0..source.height.toDouble()

    /** The place of the resampled part's corner in the input. */
    internal val offsetX: Int = offset(resampled.width, target.width)
    internal val offsetY: Int = offset(resampled.height, target.height)

    /** Pixels of the input per pixel of the picture, from left to right. */
    public val scaleX: Double = if (isFit) cover.scale else resampled.width.toDouble() / source.width

    /** Pixels of the input per pixel of the picture, from top to bottom; for `CROP` and `PAD` a little apart. */
    public val scaleY: Double = if (isFit) cover.scale else resampled.height.toDouble() / source.height

    /** The place of the picture's left edge in the input; below 0 where the picture is cropped. */
    public val left: Double = offsetX - partX.start * scaleX

    /** The place of the picture's top edge in the input; below 0 where the picture is cropped. */
    public val top: Double = offsetY - partY.start * scaleY

    /** The part of the input that shows the picture; around it the input is white, and depth means nothing. */
    public val content: FrameArea =
        FrameArea(
            max(offsetX, 0),
            max(offsetY, 0),
            min(offsetX + resampled.width, target.width),
            min(offsetY + resampled.height, target.height),
        )

    /** Whether nothing is white. */
    public val isFilled: Boolean get() = content == FrameArea(0, 0, target.width, target.height)

    /** The x and y in the picture of a place in the input; the middle of its first pixel is (0.5, 0.5). */
    public fun toPicture(x: Double, y: Double): DoubleArray = doubleArrayOf((x - left) / scaleX, (y - top) / scaleY)

    /** The x and y in the input of a place in the picture. */
    public fun toInput(x: Double, y: Double): DoubleArray = doubleArrayOf(x * scaleX + left, y * scaleY + top)

    private companion object {
        fun scaled(source: FrameSize, target: FrameSize, rule: Preprocess): FrameSize {
            val isWide = source.width.toLong() * target.height >= source.height.toLong() * target.width
            if (rule.mode == Preprocess.Mode.CROP || isWide) {
                val height = proportional(source.height, source.width, target.width, rule.patch)
                if (rule.mode == Preprocess.Mode.PAD) return FrameSize(target.width, within(height, target.height))
                if (height <= Preprocess.MOST_SCALED) return FrameSize(target.width, height.toInt())
                throw wrongInput(
                    "a picture of $source pixels would be scaled to ${target.width} x ${height.toLong()}",
                    "cut the picture, or export with --preprocess fit or pad",
                )
            }
            val width = proportional(source.width, source.height, target.height, rule.patch)
            return FrameSize(within(width, target.width), target.height)
        }

        fun within(side: Double, most: Int): Int = min(side, most.toDouble()).toInt()

        /** To the nearest multiple of a patch, at least one; halves to the even one. */
        fun proportional(side: Int, other: Int, scaledOther: Int, patch: Int): Double =
            max(1.0, Math.rint(side * (scaledOther.toDouble() / other) / patch)) * patch

        /** The larger half lies behind, where an odd number of pixels is cut or white. */
        fun offset(resampled: Int, target: Int): Int =
            if (resampled > target) -((resampled - target) / 2) else (target - resampled) / 2
    }
}
