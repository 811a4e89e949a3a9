package io.vggtedge

import java.nio.ByteBuffer
import kotlin.math.floor

/**
 * How a camera or a video decoder encoded colour as brightness (Y) and two colour differences (Cb, Cr), in 8 bits.
 *
 * @property matrix How much red and blue count in the brightness.
 * @property levels Which of the 256 levels are used.
 */
public data class YCbCrEncoding(public val matrix: Matrix, public val levels: Levels) {
    /** How much red and blue count in the brightness. */
    public enum class Matrix(internal val red: Double, internal val blue: Double) {
        /** ITU-R BT.601. */
        BT601(0.299, 0.114),

        /** ITU-R BT.709. */
        BT709(0.2126, 0.0722),

        /** ITU-R BT.2020. */
        BT2020(0.2627, 0.0593),
    }

    /** Which of the 256 levels are used. */
    public enum class Levels {
        /** 0 to 255, as camera frames and photos use them. */
        FULL,

        /** 16 to 235 for brightness, 16 to 240 for colour: most video. */
        VIDEO,
    }

    /** Encodings by where frames come from. */
    public companion object {
        /** What `YUV_420_888` frames of a camera hold: the data space of JPEG. */
        public val CAMERA: YCbCrEncoding = YCbCrEncoding(Matrix.BT601, Levels.FULL)
    }
}

/**
 * One plane of a picture, as `Image.Plane` has it. Valid only as long as its memory is.
 *
 * @property bytes The samples; the last row may end with its last sample.
 * @property rowStride From the start of one row to the start of the next, in bytes.
 * @property pixelStride From one sample to the next, in bytes.
 */
public class BytePlane(public val bytes: ByteBuffer, public val rowStride: Int, public val pixelStride: Int) {
    /** In 64 bits, which hostile strides cannot overflow. */
    internal fun holds(rows: Int, columns: Int): Boolean {
        if (rowStride < 1 || pixelStride < 1) return false
        val last = (rows - 1L) * rowStride + (columns - 1L) * pixelStride
        return last < bytes.limit()
    }

    internal fun at(row: Int, column: Int): Int = bytes.get(row * rowStride + column * pixelStride).toInt() and 0xff
}

/** The inverse of an encoding in fixed point. */
internal class YCbCrDecoder(encoding: YCbCrEncoding) {
    private val video = encoding.levels == YCbCrEncoding.Levels.VIDEO
    private val red = encoding.matrix.red
    private val blue = encoding.matrix.blue
    private val green = 1 - red - blue
    private val colorGain = if (video) 255.0 / 224.0 else 1.0
    private val blackLevel = if (video) 16 else 0
    private val brightness = fixedPoint(if (video) 255.0 / 219.0 else 1.0)
    private val redFromCr = fixedPoint(2 * (1 - red) * colorGain)
    private val blueFromCb = fixedPoint(2 * (1 - blue) * colorGain)
    private val greenFromCb = fixedPoint(2 * (1 - blue) * blue / green * colorGain)
    private val greenFromCr = fixedPoint(2 * (1 - red) * red / green * colorGain)

    /** Writes red, green and blue to [result] from [index] on. */
    fun decode(y: Int, cb: Int, cr: Int, result: ByteArray, index: Int) {
        val base = (y - blackLevel) * brightness + HALF
        val blueness = cb - MIDDLE
        val redness = cr - MIDDLE
        result[index] = clamped(base + redness * redFromCr)
        result[index + 1] = clamped(base - blueness * greenFromCb - redness * greenFromCr)
        result[index + 2] = clamped(base + blueness * blueFromCb)
    }

    private companion object {
        const val PRECISION = 16
        const val HALF = 1 shl (PRECISION - 1)
        const val MIDDLE = 128

        fun fixedPoint(value: Double): Int = floor(value * (1 shl PRECISION) + 0.5).toInt()

        fun clamped(value: Int): Byte = (value shr PRECISION).coerceIn(0, 255).toByte()
    }
}

/**
 * From a full-size plane of Y and half-size planes of Cb and Cr, sides rounded up: `YUV_420_888` of Android.
 *
 * The four pixels over one colour sample share its colour. Throws [KitException] if the planes cannot hold a picture
 * of that [size].
 */
public fun RgbImage.Companion.ofPlanes(
    size: FrameSize,
    luma: BytePlane,
    cb: BytePlane,
    cr: BytePlane,
    encoding: YCbCrEncoding = YCbCrEncoding.CAMERA,
): RgbImage {
    checkSides(size)
    val rows = (size.height + 1) / 2
    val columns = (size.width + 1) / 2
    if (!luma.holds(size.height, size.width) || !cb.holds(rows, columns) || !cr.holds(rows, columns)) {
        throw KitException(
            KitException.Kind.WRONG_INPUT,
            "the planes hold no picture of $size pixels",
            "pass the planes, sizes and strides of one image",
        )
    }
    val decoder = YCbCrDecoder(encoding)
    val pixels = ByteArray(3 * size.pixelCount)
    var index = 0
    for (row in 0 until size.height) {
        for (column in 0 until size.width) {
            val blueness = cb.at(row / 2, column / 2)
            val redness = cr.at(row / 2, column / 2)
            decoder.decode(luma.at(row, column), blueness, redness, pixels, index)
            index += 3
        }
    }
    return of(size, pixels)
}
