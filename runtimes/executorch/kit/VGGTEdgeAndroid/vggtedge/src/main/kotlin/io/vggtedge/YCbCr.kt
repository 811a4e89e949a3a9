package io.vggtedge

import java.nio.ByteBuffer
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

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
        @JvmField public val CAMERA: YCbCrEncoding = YCbCrEncoding(Matrix.BT601, Levels.FULL)
    }
}

/**
 * One plane of a picture, as `Image.Plane` has it. Valid only as long as its memory is.
 *
 * @property bytes The samples, from its position to its limit; the last row may end with its last sample.
 * @property rowStride From the start of one row to the start of the next, in bytes.
 * @property pixelStride From one sample to the next, in bytes.
 */
public class BytePlane(public val bytes: ByteBuffer, public val rowStride: Int, public val pixelStride: Int) {
    private val samples: ByteBuffer = bytes.slice()

    /** In 64 bits, which hostile strides cannot overflow. */
    internal fun holds(rows: Int, columns: Int): Boolean {
        if (rowStride < 1 || pixelStride < 1) return false
        val last = (rows - 1L) * rowStride + (columns - 1L) * pixelStride
        return last < samples.limit()
    }

    /** Copies the bytes of the samples from column [from] on, before column [end], and as many [more] behind them. */
    internal fun copy(row: Int, from: Int, end: Int, into: ByteArray, more: Int = 0) {
        samples.position(row * rowStride + from * pixelStride)
        samples.get(into, 0, byteCount(from, end) + more)
    }

    internal fun byteCount(from: Int, end: Int): Int = (end - 1 - from) * pixelStride + 1
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

    fun brightness(y: Int): Int = (y - blackLevel) * brightness + HALF

    fun redPart(cr: Int): Int = (cr - MIDDLE) * redFromCr

    fun greenPart(cb: Int, cr: Int): Int = -(cb - MIDDLE) * greenFromCb - (cr - MIDDLE) * greenFromCr

    fun bluePart(cb: Int): Int = (cb - MIDDLE) * blueFromCb

    companion object {
        private const val PRECISION = 16
        private const val HALF = 1 shl (PRECISION - 1)
        private const val MIDDLE = 128

        private fun fixedPoint(value: Double): Int = floor(value * (1 shl PRECISION) + 0.5).toInt()

        /** The level of a brightness with the part of one colour. Without branches, which noise would mispredict. */
        fun level(value: Int): Int = max(0, min(255, value shr PRECISION))
    }
}

/**
 * The rows of a picture of one full-size and two half-size planes; the four pixels over one colour sample share it.
 *
 * [left] and [top] say where the picture begins in the planes.
 */
internal class PlaneRows(
    override val size: FrameSize,
    private val planes: List<BytePlane>,
    encoding: YCbCrEncoding,
    private val left: Int = 0,
    private val top: Int = 0,
) : PictureRows {
    private val decoder = YCbCrDecoder(encoding)
    private val samples: List<ByteArray>

    init {
        val end = left + size.width
        val bottom = top + size.height
        val (luma, cb, cr) = planes
        val isWhole = luma.holds(bottom, end) && cb.holds(half(bottom), half(end)) && cr.holds(half(bottom), half(end))
        if (!isWhole) {
            throw wrongInput("the planes hold no picture of $size pixels", "pass planes and strides of one image")
        }
        samples = planes.zip(listOf(end, half(end), half(end))).map { (plane, columns) ->
            ByteArray(plane.byteCount(0, columns))
        }
    }

    override fun read(row: Int, from: Int, end: Int, into: IntArray) {
        val first = left + from
        val last = left + end
        planes[0].copy(top + row, first, last, samples[0])
        for (chroma in 1..2) planes[chroma].copy((top + row) / 2, first / 2, half(last), samples[chroma])
        // Two pixels share a colour; at either end the other one may lie outside.
        val start = min(end - from, first % 2)
        val pairs = (end - from - start) / 2
        if (start > 0) single(0, 0, into)
        pairs(start, pairs, into)
        if (start + 2 * pairs < end - from) single(start + 2 * pairs, start + pairs, into)
    }

    private fun pairs(start: Int, pairs: Int, into: IntArray) {
        val luma = samples[0]
        val cb = samples[1]
        val cr = samples[2]
        val lumaStep = planes[0].pixelStride
        val cbStep = planes[1].pixelStride
        val crStep = planes[2].pixelStride
        for (pair in 0 until pairs) {
            val blueness = cb[(start + pair) * cbStep].toInt() and 0xff
            val redness = cr[(start + pair) * crStep].toInt() and 0xff
            val red = decoder.redPart(redness)
            val green = decoder.greenPart(blueness, redness)
            val blue = decoder.bluePart(blueness)
            val column = start + 2 * pair
            val one = decoder.brightness(luma[column * lumaStep].toInt() and 0xff)
            val other = decoder.brightness(luma[(column + 1) * lumaStep].toInt() and 0xff)
            val to = RgbImage.CHANNELS * column
            into[to] = YCbCrDecoder.level(one + red)
            into[to + 1] = YCbCrDecoder.level(one + green)
            into[to + 2] = YCbCrDecoder.level(one + blue)
            into[to + 3] = YCbCrDecoder.level(other + red)
            into[to + 4] = YCbCrDecoder.level(other + green)
            into[to + 5] = YCbCrDecoder.level(other + blue)
        }
    }

    /** The one pixel of a pair that is inside. */
    private fun single(column: Int, pair: Int, into: IntArray) {
        val blueness = samples[1][pair * planes[1].pixelStride].toInt() and 0xff
        val redness = samples[2][pair * planes[2].pixelStride].toInt() and 0xff
        val base = decoder.brightness(samples[0][column * planes[0].pixelStride].toInt() and 0xff)
        val to = RgbImage.CHANNELS * column
        into[to] = YCbCrDecoder.level(base + decoder.redPart(redness))
        into[to + 1] = YCbCrDecoder.level(base + decoder.greenPart(blueness, redness))
        into[to + 2] = YCbCrDecoder.level(base + decoder.bluePart(blueness))
    }

    private fun half(length: Int): Int = (length + 1) / 2
}

/**
 * From a full-size plane of Y and half-size planes of Cb and Cr, sides rounded up: `YUV_420_888` of Android.
 *
 * Throws [KitException] if the planes cannot hold a picture of that [size].
 */
public fun RgbImage.Companion.ofPlanes(
    size: FrameSize,
    luma: BytePlane,
    cb: BytePlane,
    cr: BytePlane,
    encoding: YCbCrEncoding = YCbCrEncoding.CAMERA,
): RgbImage = PlaneRows(size, listOf(luma, cb, cr), encoding).picture()
