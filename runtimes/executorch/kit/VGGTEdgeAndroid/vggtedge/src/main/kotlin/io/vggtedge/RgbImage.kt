package io.vggtedge

/** Turns by a multiple of 90 degrees. A camera held upright gives pictures that lie on their side. */
public enum class QuarterTurn {
    /** Leaves the picture as it is. */
    UPRIGHT,

    /** A quarter to the right: what a picture of most back cameras needs when the phone is held upright. */
    CLOCKWISE,

    /** Upside down. */
    HALF,

    /** A quarter to the left. */
    COUNTERCLOCKWISE;

    /** Turns from what Android says. */
    public companion object {
        /** The turn for `ImageInfo.getRotationDegrees()` of CameraX: 0, 90, 180 or 270, clockwise. */
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
    /** The picture after a turn. */
    public fun turned(turn: QuarterTurn): RgbImage {
        if (turn == QuarterTurn.UPRIGHT) return this
        val turned = if (turn == QuarterTurn.HALF) size else FrameSize(size.height, size.width)
        val result = ByteArray(pixels.size)
        var to = 0
        for (row in 0 until turned.height) {
            for (column in 0 until turned.width) {
                val from = 3 * sourceIndex(row, column, turn)
                pixels.copyInto(result, to, from, from + 3)
                to += 3
            }
        }
        return RgbImage(turned, result)
    }

    private fun sourceIndex(row: Int, column: Int, turn: QuarterTurn): Int =
        when (turn) {
            QuarterTurn.UPRIGHT -> row * size.width + column
            QuarterTurn.CLOCKWISE -> (size.height - 1 - column) * size.width + row
            QuarterTurn.HALF -> (size.height - 1 - row) * size.width + (size.width - 1 - column)
            QuarterTurn.COUNTERCLOCKWISE -> column * size.width + (size.width - 1 - row)
        }

    /** Three planes, red, green, blue, with values from 0 to 1: the layout of the input `images`. */
    public fun planes(): FloatArray {
        val count = size.pixelCount
        val result = FloatArray(3 * count)
        for (index in 0 until count) {
            for (channel in 0 until 3) {
                result[channel * count + index] = UNIT_VALUES[pixels[3 * index + channel].toInt() and 0xff]
            }
        }
        return result
    }

    /** Makes pictures. */
    public companion object {
        /** No frame of a camera is larger; what claims to be is damaged. */
        private const val LONGEST_SIDE = 1 shl 14

        /** `byte / 255` for every byte, in single precision as the exporter divides. */
        private val UNIT_VALUES = FloatArray(256) { it / 255f }

        /** From three bytes per pixel, row after row. Throws [KitException] unless there are as many as that takes. */
        public fun of(size: FrameSize, pixels: ByteArray): RgbImage {
            checkSides(size)
            if (pixels.size != 3 * size.pixelCount) {
                throw KitException(
                    KitException.Kind.WRONG_INPUT,
                    "a picture of $size pixels has ${pixels.size} bytes",
                    "give three bytes for each pixel, without gaps between the rows",
                )
            }
            return RgbImage(size, pixels)
        }

        /**
         * From one `0xAARRGGBB` per pixel, as `Bitmap.getPixels` gives them. Alpha is not looked at.
         *
         * Throws [KitException] unless there is one for each pixel.
         */
        public fun ofColors(size: FrameSize, colors: IntArray): RgbImage {
            checkSides(size)
            if (colors.size != size.pixelCount) {
                throw KitException(
                    KitException.Kind.WRONG_INPUT,
                    "a picture of $size pixels has ${colors.size} colours",
                    "give one colour for each pixel, without gaps between the rows",
                )
            }
            val pixels = ByteArray(3 * colors.size)
            for ((index, color) in colors.withIndex()) {
                pixels[3 * index] = (color shr 16).toByte()
                pixels[3 * index + 1] = (color shr 8).toByte()
                pixels[3 * index + 2] = color.toByte()
            }
            return RgbImage(size, pixels)
        }

        internal fun checkSides(size: FrameSize) {
            if (size.width !in 1..LONGEST_SIDE || size.height !in 1..LONGEST_SIDE) {
                throw KitException(
                    KitException.Kind.WRONG_INPUT,
                    "a picture of $size pixels",
                    "give a picture with sides of 1 to $LONGEST_SIDE pixels",
                )
            }
        }
    }
}
