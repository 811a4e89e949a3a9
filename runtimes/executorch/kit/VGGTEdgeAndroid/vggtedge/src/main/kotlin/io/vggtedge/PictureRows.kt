package io.vggtedge

/** A picture that gives its rows one after another: no more than a few of them are in memory. */
internal interface PictureRows {
    /** The picture as it lies in memory. */
    val size: FrameSize

    /** Writes red, green and blue of the pixels from column [from] on, before column [end], to the start of [into]. */
    fun read(row: Int, from: Int, end: Int, into: IntArray)
}

/**
 * How a picture has to be turned or mirrored to be upright, in the order of EXIF's values.
 *
 * [isTransposed]: a row in memory is a column of the upright picture. [reversesRows], [reversesColumns]: the rows in
 * memory, or the columns, are passed from the last to the first.
 */
internal enum class Orientation(
    val isTransposed: Boolean,
    val reversesRows: Boolean,
    val reversesColumns: Boolean,
) {
    /** As it lies in memory. */
    UPRIGHT(false, false, false),

    /** Left and right exchanged. */
    MIRRORED(false, false, true),

    /** Turned by 180 degrees. */
    HALF(false, true, true),

    /** Top and bottom exchanged. */
    FLIPPED(false, true, false),

    /** Rows and columns exchanged. */
    TRANSPOSED(true, false, false),

    /** Turned by 90 degrees to the right. */
    CLOCKWISE(true, true, false),

    /** Rows and columns exchanged along the other diagonal. */
    TRANSVERSE(true, true, true),

    /** Turned by 90 degrees to the left. */
    COUNTERCLOCKWISE(true, false, true);

    fun turned(size: FrameSize): FrameSize = if (isTransposed) FrameSize(size.height, size.width) else size

    companion object {
        /** By the value of EXIF's tag, from 1 to 8; upright for any other. */
        fun ofExif(value: Int): Orientation = entries.getOrElse(value - 1) { UPRIGHT }
    }
}

/** The whole picture, turned. */
internal fun PictureRows.picture(orientation: Orientation = Orientation.UPRIGHT): RgbImage {
    val turned = orientation.turned(size)
    val pixels = RgbImage.pixelsOf(turned)
    val row = IntArray(RgbImage.CHANNELS * size.width)
    for (index in 0 until size.height) {
        read(index, 0, size.width, row)
        val line = if (orientation.reversesRows) size.height - 1 - index else index
        for (column in 0 until size.width) {
            val place = if (orientation.reversesColumns) size.width - 1 - column else column
            val to = if (orientation.isTransposed) place * turned.width + line else line * turned.width + place
            for (channel in 0 until RgbImage.CHANNELS) {
                pixels[RgbImage.CHANNELS * to + channel] = row[RgbImage.CHANNELS * column + channel].toByte()
            }
        }
    }
    return RgbImage.of(turned, pixels)
}

/** Rows of pixels in memory. */
internal class PixelRows(override val size: FrameSize, private val pixels: ByteArray) : PictureRows {
    override fun read(row: Int, from: Int, end: Int, into: IntArray) {
        val start = RgbImage.CHANNELS * (row * size.width + from)
        for (index in 0 until RgbImage.CHANNELS * (end - from)) into[index] = pixels[start + index].toInt() and 0xff
    }
}

/** Writes red, green and blue of `0xAARRGGBB` on white. */
internal fun putOnWhite(color: Int, into: IntArray, index: Int) {
    into[index] = color shr 16 and 0xff
    into[index + 1] = color shr 8 and 0xff
    into[index + 2] = color and 0xff
    val alpha = color ushr 24
    if (alpha == 255) return
    for (channel in index until index + RgbImage.CHANNELS) {
        into[channel] = (into[channel] * alpha + 255 * (255 - alpha) + 127) / 255
    }
}
