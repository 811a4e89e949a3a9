package io.vggtedge

import java.nio.FloatBuffer

/** Turns by a multiple of 90 degrees. A camera held upright gives pictures that lie on their side. */
public enum class QuarterTurn(internal val orientation: Orientation) {
    /** Leaves the picture as it is. */
    UPRIGHT(Orientation.UPRIGHT),

    /** A quarter to the right: what a picture of most back cameras needs when the phone is held upright. */
    CLOCKWISE(Orientation.CLOCKWISE),

    /** Upside down. */
    HALF(Orientation.HALF),

    /** A quarter to the left. */
    COUNTERCLOCKWISE(Orientation.COUNTERCLOCKWISE);

    /** Turns from what Android says. */
    public companion object {
        /** The turn for `ImageInfo.getRotationDegrees()` of CameraX: 0, 90, 180 or 270, clockwise. */
        @JvmStatic
        public fun ofDegrees(degrees: Int): QuarterTurn =
            when (degrees) {
                0 -> UPRIGHT
                90 -> CLOCKWISE
                180 -> HALF
                270 -> COUNTERCLOCKWISE
                else ->
                    throw KitException(
                        KitException.Kind.WRONG_INPUT,
                        "a turn by $degrees degrees",
                        "pass 0, 90, 180 or 270",
                    )
            }
    }
}

/**
 * A picture of 8-bit RGB pixels, row after row without gaps.
 *
 * @property size Its size.
 * @property pixels Red, green and blue of each pixel, `3 * width * height` bytes. Not to be changed.
 */
public class RgbImage private constructor(public val size: FrameSize, public val pixels: ByteArray) {
    internal val rows: PictureRows get() = PixelRows(size, pixels)

    /** The picture after a turn. */
    public fun turned(turn: QuarterTurn): RgbImage =
        if (turn == QuarterTurn.UPRIGHT) this else rows.picture(turn.orientation)

    /** Three planes, red, green, blue, with values from 0 to 1: the layout of the input `images`. */
    public fun planes(): FloatArray {
        val result = FloatArray(CHANNELS * size.pixelCount)
        putPlanes(FloatBuffer.wrap(result))
        return result
    }

    /** [planes], written to where the model reads them. */
    internal fun putPlanes(to: FloatBuffer) {
        val row = FloatArray(size.width)
        for (channel in 0 until CHANNELS) {
            var from = channel
            repeat(size.height) {
                for (column in row.indices) {
                    row[column] = UNIT_VALUES[pixels[from].toInt() and 0xff]
                    from += CHANNELS
                }
                to.put(row)
            }
        }
    }

    /** Makes pictures. */
    public companion object {
        internal const val CHANNELS: Int = 3

        /** `byte / 255` for every byte, in single precision as the exporter divides. */
        private val UNIT_VALUES = FloatArray(256) { it / 255f }

        /** From three bytes per pixel, row after row. Throws [KitException] unless there are as many as that takes. */
        @JvmStatic
        public fun of(size: FrameSize, pixels: ByteArray): RgbImage {
            if (pixels.size.toLong() != byteCount(size)) {
                throw KitException(
                    KitException.Kind.WRONG_INPUT,
                    "a picture of $size pixels has ${pixels.size} bytes",
                    "give three bytes for each pixel, without gaps between the rows",
                )
            }
            return RgbImage(size, pixels)
        }

        /**
         * From one `0xAARRGGBB` per pixel, as `Bitmap.getPixels` gives them. What is not opaque lies on white.
         *
         * Throws [KitException] unless there is one for each pixel.
         */
        @JvmStatic
        public fun ofColors(size: FrameSize, colors: IntArray): RgbImage {
            if (colors.size != size.pixelCount) {
                throw KitException(
                    KitException.Kind.WRONG_INPUT,
                    "a picture of $size pixels has ${colors.size} colours",
                    "give one colour for each pixel, without gaps between the rows",
                )
            }
            return ColorRows(size, colors).picture()
        }

        /** An empty picture's bytes. Throws [KitException] for more than an array can hold. */
        internal fun pixelsOf(size: FrameSize): ByteArray {
            val count = byteCount(size)
            if (count > MOST_BYTES) throw wrongInput("a picture of $size pixels", "prepare it: that needs no copy")
            return ByteArray(count.toInt())
        }

        private const val MOST_BYTES = Int.MAX_VALUE - 8L

        private fun byteCount(size: FrameSize): Long = CHANNELS.toLong() * size.pixelCount
    }
}

private class ColorRows(override val size: FrameSize, private val colors: IntArray) : PictureRows {
    override fun read(row: Int, from: Int, end: Int, into: IntArray) {
        for (column in from until end) putOnWhite(colors[row * size.width + column], into, 3 * (column - from))
    }
}
