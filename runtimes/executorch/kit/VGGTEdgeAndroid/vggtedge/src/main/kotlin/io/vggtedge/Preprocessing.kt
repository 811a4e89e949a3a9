package io.vggtedge

import android.graphics.Bitmap
import android.graphics.ImageFormat
import android.media.Image

/**
 * The pixels of a bitmap, copied. Alpha is not looked at.
 *
 * Throws [KitException] for a bitmap in the memory of the GPU, whose pixels cannot be read, and for one that is
 * recycled already.
 */
public fun RgbImage.Companion.of(bitmap: Bitmap): RgbImage {
    if (bitmap.isRecycled || bitmap.config == Bitmap.Config.HARDWARE) {
        throw KitException(
            KitException.Kind.WRONG_INPUT,
            "the pixels of this bitmap cannot be read",
            "pass one of the configuration ARGB_8888, before it is recycled",
        )
    }
    val size = FrameSize(bitmap.width, bitmap.height)
    checkSides(size)
    val colors = IntArray(size.pixelCount)
    bitmap.getPixels(colors, 0, size.width, 0, 0, size.width, size.height)
    return ofColors(size, colors)
}

/**
 * The pixels of a camera frame, copied: the image can be closed at once.
 *
 * Throws [KitException] for another format than `YUV_420_888`.
 */
public fun RgbImage.Companion.of(image: Image, encoding: YCbCrEncoding = YCbCrEncoding.CAMERA): RgbImage {
    if (image.format != ImageFormat.YUV_420_888) {
        throw KitException(
            KitException.Kind.WRONG_INPUT,
            "the image format ${image.format} is not supported",
            "ask the camera for YUV_420_888, or pass a Bitmap",
        )
    }
    val (luma, cb, cr) = image.planes.map { BytePlane(it.buffer, it.rowStride, it.pixelStride) }
    return ofPlanes(FrameSize(image.width, image.height), luma, cb, cr, encoding)
}
