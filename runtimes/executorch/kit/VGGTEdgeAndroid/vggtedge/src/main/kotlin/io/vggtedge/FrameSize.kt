package io.vggtedge

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.min

/**
 * Width and height of a frame in pixels, each from 1 to 32768.
 *
 * @property width Pixels from left to right.
 * @property height Pixels from top to bottom.
 */
public data class FrameSize(public val width: Int, public val height: Int) {
    init {
        if (width !in 1..LONGEST_SIDE || height !in 1..LONGEST_SIDE) {
            throw wrongInput("a frame of $width x $height pixels", "give sides from 1 to $LONGEST_SIDE")
        }
    }

    /** The number of pixels. */
    public val pixelCount: Int get() = width * height

    /** Whether both sides are made of whole patches of [PATCH] pixels. */
    public val isWholePatches: Boolean
        get() = isMadeOf(PATCH)

    internal fun isMadeOf(patch: Int): Boolean =
        width >= patch && height >= patch && width % patch == 0 && height % patch == 0

    /** Width x height. */
    override fun toString(): String = "$width x $height"

    /** Sizes of frames that a model can take. */
    public companion object {
        /** The side of one patch of most models: both sides of an input are multiples of it; [Preprocess.patch]. */
        public const val PATCH: Int = 14

        private const val LONGEST_SIDE = 1 shl 15

        /**
         * The size of whole patches that best keeps the aspect ratio of a frame.
         *
         * The longer side becomes the largest multiple of 14 within [longSide]; the shorter one the multiple of 14
         * whose aspect ratio is nearest in the logarithm. It is what the exporter chooses for `--resolution`.
         * Throws [KitException] for a long side under one patch.
         */
        @JvmStatic
        public fun fitting(frame: FrameSize, longSide: Int): FrameSize {
            if (longSide < PATCH) {
                throw wrongInput(
                    "a frame of $frame has no size within $longSide pixels",
                    "give a long side of at least $PATCH",
                )
            }
            val longPatches = longSide / PATCH
            val shorter = min(frame.width, frame.height).toDouble()
            val exact = longPatches * shorter / max(frame.width, frame.height)
            val below = max(1, floor(exact).toInt())
            val above = min(below + 1, longPatches)
            val belowIsNearer = abs(ln(below / exact)) <= abs(ln(above / exact))
            val long = longPatches * PATCH
            val short = (if (belowIsNearer) below else above) * PATCH
            return if (frame.width >= frame.height) FrameSize(long, short) else FrameSize(short, long)
        }
    }
}

/**
 * The centred part of a [source] frame that a [target] frame shows, in source pixels.
 *
 * A frame is scaled until it covers the target and cropped evenly: nothing is padded, nothing is stretched. Pixel
 * coordinates are continuous, the top-left corner of the image is (0, 0).
 */
public class FrameCrop(source: FrameSize, target: FrameSize) {
    /** Target pixels per source pixel. */
    public val scale: Double =
        max(target.width.toDouble() / source.width, target.height.toDouble() / source.height)

    /** Width of the part that is shown. */
    public val width: Double = min(target.width / scale, source.width.toDouble())

    /** Height of the part that is shown. */
    public val height: Double = min(target.height / scale, source.height.toDouble())

    /** Left edge of the part that is shown. */
    public val left: Double = (source.width - width) / 2

    /** Top edge of the part that is shown. */
    public val top: Double = (source.height - height) / 2
}
