package io.vggtedge

import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.Rect
import android.hardware.DataSpace
import android.media.Image
import java.io.File
import java.nio.ByteBuffer
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What `prepare` makes of bitmaps and camera frames. */
internal class PicturesTest : WithKit() {
    private fun withModel(action: suspend (VGGTModel) -> Unit) =
        runBlocking { VGGTModel.load(folder).use { action(it) } }

    private fun colorOf(bitmap: Bitmap): List<Int> = RgbImage.of(bitmap).pixels.take(3).map { it.toInt() and 0xff }

    private fun plain(color: Int, space: ColorSpace.Named, config: Bitmap.Config = Bitmap.Config.ARGB_8888) =
        Bitmap(SIZE.width, SIZE.height, config, ColorSpace.get(space)) { _, _ -> color }

    @Test
    fun wideColoursBecomeThoseOfSrgb() {
        assertEquals(listOf(200, 100, 50), colorOf(plain(0xffc86432.toInt(), ColorSpace.Named.SRGB)))
        assertEquals(listOf(215, 93, 31), colorOf(plain(0xffc86432.toInt(), ColorSpace.Named.DISPLAY_P3)))
    }

    @Test
    fun whatLetsLightThroughLiesOnWhite() {
        assertEquals(listOf(255, 255, 255), colorOf(plain(0x00000000, ColorSpace.Named.SRGB)))
        assertEquals(listOf(227, 177, 152), colorOf(plain(0x80c86432.toInt(), ColorSpace.Named.SRGB)))
    }

    @Test
    fun bitmapsWithoutColoursAreRefused() {
        for (bitmap in listOf(
            plain(-1, ColorSpace.Named.SRGB, Bitmap.Config.ALPHA_8),
            plain(-1, ColorSpace.Named.SRGB, Bitmap.Config.HARDWARE),
            plain(-1, ColorSpace.Named.BT2020_PQ, Bitmap.Config.RGBA_1010102),
            plain(-1, ColorSpace.Named.SRGB).also { it.recycle() },
        )) {
            assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.of(bitmap) }
        }
    }

    @Test
    fun onlyWhatTheCameraCroppedIsSeen() = withModel { model ->
        val frame = Frame(64, 32, Rect(8, 4, 64, 32)) { x, y -> if (x < 8 || y < 4) 0 else 200 }
        assertTrue(model.prepare(frame).pixels.all { it == 200.toByte() })
    }

    /** The encodings by their data spaces: a Y of 81 with Cb 90 and Cr 240 is red in limited range, BT.601. */
    @Test
    fun dataSpacesSayHowColoursAreMeant() = withModel { model ->
        fun color(space: Int) = model.prepare(Frame(28, 14, null, space, 90, 240) { _, _ -> 81 })
            .pixels.take(3).map { it.toInt() and 0xff }
        assertEquals(color(DataSpace.DATASPACE_JFIF), color(DataSpace.DATASPACE_UNKNOWN))
        assertEquals(listOf(238, 14, 14), color(DataSpace.DATASPACE_JFIF))
        assertEquals(listOf(254, 0, 0), color(DataSpace.DATASPACE_BT601_625))
        assertEquals(listOf(255, 24, 0), color(DataSpace.DATASPACE_BT709))
        val wide = listOf(DataSpace.DATASPACE_BT2020, DataSpace.DATASPACE_BT2020_PQ, DataSpace.DATASPACE_DISPLAY_P3)
        for (space in wide) {
            assertRefused(KitException.Kind.WRONG_INPUT) { color(space) }
        }
    }

    @Test
    fun closedImagesAreRefused() = withModel { model ->
        val frame = Frame(28, 14) { _, _ -> 0 }
        frame.close()
        assertRefused(KitException.Kind.WRONG_INPUT) { model.prepare(frame) }
    }

    /** A picture of 3 x 2 pixels in the eight orientations of EXIF, made by Pillow. */
    @Test
    fun photosAreTurnedAsTheySay() = withModel { model ->
        for (case in Vectors.cases("photos")) {
            val file = File(folder, "photo.png").also { it.writeBytes(case.bytes("file")) }
            val (bitmap, orientation) = decoded(file)
            val upright = BitmapRows(bitmap).picture(orientation)
            assertEquals(case.size("size"), upright.size)
            assertArrayEquals(case.text("name"), case.bytes("pixels"), upright.pixels)
            assertEquals(SIZE, model.prepare(file).size)
        }
        assertRefused(KitException.Kind.WRONG_INPUT) { model.prepare(File(folder, Kit.FILE_NAME)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { model.prepare(File(folder, "none.jpg")) }
    }

    @Test
    fun framesInRgba() = withModel { model ->
        val frame = RgbaFrame(64, 32, Rect(8, 4, 64, 32)) { x, y -> if (x < 8 || y < 4) 0 else 77 }
        assertTrue(model.prepare(frame, QuarterTurn.HALF).pixels.all { it == 77.toByte() })
    }

    @Test
    fun buffersCountFromTheirPosition() {
        val nv21 = ByteArray(4 + 8 + 4) { index -> if (index < 4) 99 else if (index < 12) 50 else -128 }
        val luma = BytePlane(ByteBuffer.wrap(nv21, 4, 8), 4, 1)
        val chroma = BytePlane(ByteBuffer.wrap(nv21, 12, 4), 4, 2)
        val picture = RgbImage.ofPlanes(FrameSize(4, 2), luma, chroma, chroma)
        assertTrue(picture.pixels.all { it == 50.toByte() })
    }
}

/** A frame as CameraX gives it when it is asked for RGBA. */
internal class RgbaFrame(
    private val width: Int,
    private val height: Int,
    private val crop: Rect,
    private val level: (Int, Int) -> Int,
) : Image() {
    override fun getFormat(): Int = 1

    override fun getWidth() = width

    override fun getHeight() = height

    override fun getCropRect() = crop

    override fun close() = Unit

    override fun getPlanes(): Array<Plane> {
        val stride = 4 * width + 12
        val bytes = ByteBuffer.allocateDirect(stride * (height - 1) + 4 * width)
        for (y in 0 until height) for (x in 0 until width) for (channel in 0 until 4) {
            bytes.put(y * stride + 4 * x + channel, (if (channel == 3) 255 else level(x, y)).toByte())
        }
        return arrayOf(object : Plane() {
            override fun getRowStride() = stride

            override fun getPixelStride() = 4

            override fun getBuffer() = bytes
        })
    }
}

/** A camera frame in NV12 with gaps behind its rows. */
internal class Frame(
    private val width: Int,
    private val height: Int,
    private val crop: Rect? = null,
    private val space: Int = DataSpace.DATASPACE_UNKNOWN,
    private val cb: Int = 128,
    private val cr: Int = 128,
    private val luma: (Int, Int) -> Int,
) : Image() {
    private var isClosed = false

    override fun getFormat(): Int = open(35)

    override fun getWidth() = open(width)

    override fun getHeight() = open(height)

    override fun getCropRect(): Rect = open(crop ?: super.getCropRect())

    override fun getDataSpace() = open(space)

    override fun close() {
        isClosed = true
    }

    override fun getPlanes(): Array<Plane> {
        val stride = width + 5
        val y = ByteBuffer.allocateDirect(stride * height)
        for (row in 0 until height) {
            for (column in 0 until width) y.put(row * stride + column, luma(column, row).toByte())
        }
        val rows = (height + 1) / 2
        val pairs = ByteBuffer.allocateDirect(stride * rows + width)
        for (index in 0 until pairs.capacity()) pairs.put(index, (if (index % 2 == 0) cb else cr).toByte())
        fun half(start: Int) = (pairs.duplicate().position(start) as ByteBuffer).slice()
        return open(arrayOf(plane(y, stride, 1), plane(half(0), stride + 1, 2), plane(half(1), stride + 1, 2)))
    }

    private fun plane(bytes: ByteBuffer, rows: Int, pixels: Int): Plane = object : Plane() {
        override fun getRowStride() = rows

        override fun getPixelStride() = pixels

        override fun getBuffer() = bytes
    }

    private fun <T> open(value: T): T {
        if (isClosed) throw IllegalStateException("Image is already closed")
        return value
    }
}
