package io.vggtedge

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.graphics.ImageFormat
import android.graphics.PixelFormat
import android.graphics.Rect
import android.hardware.DataSpace
import android.media.ExifInterface
import android.media.Image
import android.os.Build
import androidx.annotation.WorkerThread
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.channels.FileChannel

/**
 * The pixels of a bitmap, copied: in sRGB, and on white where they are not opaque. Import `io.vggtedge.of` for it.
 *
 * Throws [KitException] for a bitmap whose pixels cannot be read (in the memory of the GPU, recycled), and for one that
 * holds no colours of the usual range (alpha alone, HDR).
 */
@WorkerThread
public fun RgbImage.Companion.of(bitmap: Bitmap): RgbImage = BitmapRows(bitmap).picture()

/**
 * The pixels of a camera frame, copied: the image can be closed at once. Import `io.vggtedge.of` for it.
 *
 * [encoding]: how its colours are meant; where null, what the image says. Throws [KitException] for other formats than
 * `YUV_420_888` and `RGBA_8888`, and for encodings that are not converted to sRGB.
 */
@WorkerThread
public fun RgbImage.Companion.of(image: Image, encoding: YCbCrEncoding? = null): RgbImage =
    imageRows(image, null, encoding).picture()

/** Android gives the pixels of a bitmap in sRGB, whatever colour space the bitmap has. */
internal class BitmapRows(private val bitmap: Bitmap) : PictureRows {
    override val size: FrameSize
    private val colors: IntArray

    init {
        val problem = when {
            bitmap.isRecycled -> "it is recycled"
            bitmap.config == Bitmap.Config.HARDWARE -> "they lie in the memory of the GPU"
            bitmap.config == Bitmap.Config.ALPHA_8 -> "they are no colours"
            isHdr(bitmap) -> "they are of high dynamic range"
            else -> null
        }
        if (problem != null) {
            throw wrongInput("this bitmap's pixels cannot be used: $problem", "pass one of the configuration ARGB_8888")
        }
        size = FrameSize(bitmap.width, bitmap.height)
        colors = IntArray(size.width)
    }

    override fun read(row: Int, from: Int, end: Int, into: IntArray) {
        bitmap.getPixels(colors, 0, size.width, from, row, end - from, 1)
        for (index in 0 until end - from) putOnWhite(colors[index], into, RgbImage.CHANNELS * index)
    }

    private fun isHdr(bitmap: Bitmap): Boolean {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.UPSIDE_DOWN_CAKE) return false
        val wide = listOf(ColorSpace.Named.BT2020_HLG, ColorSpace.Named.BT2020_PQ)
        return wide.any { ColorSpace.get(it) == bitmap.colorSpace }
    }
}

/**
 * A picture out of a file, and how it has to be turned.
 *
 * The system decodes it. Files of JPEG, PNG, WebP and BMP are looked at before; of other formats, as HEIC, the system
 * is asked for the orientation.
 */
internal fun decoded(file: File): Pair<Bitmap, Orientation> {
    try {
        val known = PictureHeader.orientation(mapped(file))
        val bitmap = BitmapFactory.decodeFile(file.path) ?: throw IOException("Android cannot decode it")
        return bitmap to (known ?: orientationBySystem(file))
    } catch (problem: PictureProblem) {
        throw wrongInput("the picture ${file.name} cannot be used: ${problem.message}", problem.remedy, problem)
    } catch (error: IOException) {
        throw wrongInput("${file.name} is no picture: ${error.message}", "pass a JPEG, PNG, WebP or HEIC file", error)
    } catch (error: OutOfMemoryError) {
        throw wrongInput("${file.name} is too large for the memory", "free memory, or pass a smaller picture", error)
    }
}

private fun mapped(file: File): ByteBuffer =
    RandomAccessFile(file, "r").use { opened ->
        if (opened.length() > MOST_FILE_BYTES) throw IOException("it holds more than $MOST_FILE_BYTES bytes")
        opened.channel.map(FileChannel.MapMode.READ_ONLY, 0, opened.length())
    }

private const val MOST_FILE_BYTES = 512L shl 20

private fun orientationBySystem(file: File): Orientation =
    Orientation.ofExif(ExifInterface(file.path).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1))

/** The rows of the part [crop] of a frame; of the image's own where it is null. */
internal fun imageRows(image: Image, crop: Rect?, encoding: YCbCrEncoding?): PictureRows =
    try {
        rows(image, crop ?: image.cropRect, encoding)
    } catch (error: IllegalStateException) {
        throw wrongInput("this image cannot be read: ${error.message}", "prepare it before it is closed", error)
    }

private fun rows(image: Image, crop: Rect, encoding: YCbCrEncoding?): PictureRows {
    val isInside = crop.left >= 0 && crop.top >= 0 && crop.right <= image.width && crop.bottom <= image.height
    if (!isInside) throw wrongInput("a crop outside of the image", "give a part of ${image.width} x ${image.height}")
    val size = FrameSize(crop.width(), crop.height())
    val planes = image.planes.map { BytePlane(it.buffer, it.rowStride, it.pixelStride) }
    return when {
        image.format == ImageFormat.YUV_420_888 && planes.size == 3 ->
            PlaneRows(size, planes, encoding ?: encodingOf(image), crop.left, crop.top)
        image.format == PixelFormat.RGBA_8888 && planes.size == 1 -> RgbaRows(size, planes.single(), crop)
        else ->
            throw wrongInput(
                "an image of the format ${image.format} with ${planes.size} planes",
                "ask the camera for YUV_420_888 (${ImageFormat.YUV_420_888}) or RGBA_8888, or pass a Bitmap",
            )
    }
}

/** What the image says of its colours; frames that say nothing are meant as cameras mean them. */
private fun encodingOf(image: Image): YCbCrEncoding {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU) return YCbCrEncoding.CAMERA
    val space = image.dataSpace
    if (space == DataSpace.DATASPACE_UNKNOWN) return YCbCrEncoding.CAMERA
    val levels = when (DataSpace.getRange(space)) {
        DataSpace.RANGE_FULL -> YCbCrEncoding.Levels.FULL
        DataSpace.RANGE_LIMITED -> YCbCrEncoding.Levels.VIDEO
        else -> throw unknownColors(space)
    }
    val isHdr = DataSpace.getTransfer(space) in setOf(DataSpace.TRANSFER_ST2084, DataSpace.TRANSFER_HLG)
    val matrix = when (DataSpace.getStandard(space)) {
        DataSpace.STANDARD_BT709 -> YCbCrEncoding.Matrix.BT709
        DataSpace.STANDARD_BT601_525, DataSpace.STANDARD_BT601_625,
        DataSpace.STANDARD_BT601_525_UNADJUSTED, DataSpace.STANDARD_BT601_625_UNADJUSTED -> YCbCrEncoding.Matrix.BT601
        else -> throw unknownColors(space)
    }
    return if (isHdr) throw unknownColors(space) else YCbCrEncoding(matrix, levels)
}

private fun unknownColors(space: Int) =
    wrongInput("the colours of the data space $space are not converted to sRGB", "ask the camera for BT.601 or BT.709")

/** Four bytes a pixel, as CameraX gives them when it is asked for RGBA. */
private class RgbaRows(
    override val size: FrameSize,
    private val plane: BytePlane,
    private val crop: Rect,
) : PictureRows {
    private val bytes: ByteArray

    init {
        val end = crop.right
        // The plane counts pixels; the last three bytes of one have to be there too.
        val isWhole = plane.pixelStride >= 4 && plane.holds(crop.bottom, end) &&
            (crop.bottom - 1L) * plane.rowStride + (end - 1L) * plane.pixelStride + 4 <= plane.bytes.remaining()
        if (!isWhole) throw wrongInput("the plane holds no picture of $size pixels", "pass the planes of one image")
        bytes = ByteArray(plane.byteCount(0, size.width) + 3)
    }

    override fun read(row: Int, from: Int, end: Int, into: IntArray) {
        plane.copy(crop.top + row, crop.left + from, crop.left + end, bytes, more = 3)
        for (index in 0 until end - from) {
            val at = index * plane.pixelStride
            val (red, green, blue, alpha) = IntArray(4) { bytes[at + it].toInt() and 0xff }
            putOnWhite(alpha shl 24 or (red shl 16) or (green shl 8) or blue, into, RgbImage.CHANNELS * index)
        }
    }
}
