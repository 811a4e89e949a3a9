package io.vggtedge

import java.nio.ByteBuffer
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class PictureTest {
    @Test
    fun sizesAreThoseOfTheExporter() {
        for (case in Vectors.cases("sizes")) {
            assertEquals(case.size("fitting"), FrameSize.fitting(case.size("frame"), case.int("long_side")))
        }
        assertRefused(KitException.Kind.WRONG_INPUT) { FrameSize.fitting(FrameSize(0, 5), 518) }
        assertRefused(KitException.Kind.WRONG_INPUT) { FrameSize.fitting(FrameSize(5, 5), 13) }
    }

    @Test
    fun resizedToTheByteAsInPython() {
        for (case in Vectors.cases("resizes")) {
            val picture = RgbImage.of(case.size("source"), case.bytes("pixels"))
            val resized = picture.resizedToCover(case.size("target"))
            assertEquals(case.size("target"), resized.size)
            assertArrayEquals("${case.size("source")}", case.bytes("resized"), resized.pixels)
        }
    }

    @Test
    fun framedToTheByteAsInPython() {
        for (case in Vectors.cases("framings")) {
            val picture = RgbImage.of(case.size("source"), case.bytes("pixels"))
            val framed = picture.framed(case.size("target"), case.preprocess)
            assertEquals(case.size("target"), framed.size)
            assertArrayEquals("${case.preprocess} ${case.size("source")}", case.bytes("framed"), framed.pixels)
        }
    }

    @Test
    fun onlyWholePatchesAreResizedTo() {
        val picture = RgbImage.of(FrameSize(2, 1), ByteArray(6))
        assertRefused(KitException.Kind.WRONG_INPUT) { picture.resizedToCover(FrameSize(15, 14)) }
        val sixteen = Preprocess(Preprocess.Mode.FIT, 16)
        assertEquals(FrameSize(32, 16), picture.framed(FrameSize(32, 16), sixteen).size)
        assertRefused(KitException.Kind.WRONG_INPUT) { picture.framed(FrameSize(28, 14), sixteen) }
        assertRefused(KitException.Kind.WRONG_INPUT) { picture.resizedToCover(FrameSize(0, 0)) }
    }

    @Test
    fun turned() {
        for (case in Vectors.cases("turns")) {
            val turn = QuarterTurn.valueOf(case.text("turn").uppercase())
            val turned = RgbImage.of(case.size("source"), case.bytes("pixels")).turned(turn)
            assertArrayEquals(case.bytes("turned"), turned.pixels)
        }
        assertEquals(QuarterTurn.entries, listOf(0, 90, 180, 270).map(QuarterTurn::ofDegrees))
        assertRefused(KitException.Kind.WRONG_INPUT) { QuarterTurn.ofDegrees(45) }
    }

    /** Turning and resizing in one go over the rows gives the bytes of turning first. */
    @Test
    fun rowsAreTurnedWhileTheyAreResized() {
        val random = java.util.Random(5)
        val sides = listOf(1, 13, 29, 64, 90)
        for (width in sides) for (height in sides) for (target in listOf(FrameSize(28, 42), FrameSize(14, 14))) {
            val pixels = ByteArray(3 * width * height).also(random::nextBytes)
            val picture = RgbImage.of(FrameSize(width, height), pixels)
            for (orientation in Orientation.entries) {
                val rule = Preprocess(Preprocess.Mode.entries[(width + height) % 3])
                val atOnce = picture.rows.framed(target, orientation, rule)
                val afterwards = picture.rows.picture(orientation).framed(target, rule)
                assertArrayEquals("$width x $height $orientation $rule", afterwards.pixels, atOnce.pixels)
            }
        }
    }

    @Test
    fun absurdTargetsAreRefused() {
        val picture = RgbImage.of(FrameSize(1, 1), ByteArray(3))
        val side = 14 * 2340
        assertRefused(KitException.Kind.WRONG_INPUT) { picture.resizedToCover(FrameSize(side, side)) }
    }

    @Test
    fun planesAreUnitValues() {
        val picture = RgbImage.of(FrameSize(2, 1), byteArrayOf(0, 51, 102, -1, -52, -103))
        val expected = floatArrayOf(0f, 255f, 51f, 204f, 102f, 153f).map { it / 255f }.toFloatArray()
        assertArrayEquals(expected, picture.planes(), 0f)
    }

    @Test
    fun colorsOfBitmaps() {
        val picture = RgbImage.ofColors(FrameSize(1, 2), intArrayOf(0x00010203, -0x10204))
        assertArrayEquals(byteArrayOf(-1, -1, -1, -2, -3, -4), picture.pixels)
        assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.ofColors(FrameSize(2, 2), IntArray(3)) }
    }

    @Test
    fun picturesOfOtherSizesAreRefused() {
        assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.of(FrameSize(2, 2), ByteArray(11)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.of(FrameSize(0, 2), ByteArray(0)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.of(FrameSize(1 shl 20, 1 shl 20), ByteArray(0)) }
    }

    @Test
    fun colorsAreWithinOneLevelOfTheStandards() {
        for (case in Vectors.cases("colors")) {
            val matrix = YCbCrEncoding.Matrix.valueOf(case.text("matrix").uppercase())
            val levels = YCbCrEncoding.Levels.valueOf(case.text("levels").uppercase())
            val expected = case.lists("rgb")
            for ((index, triple) in case.lists("ycbcr").withIndex()) {
                val (y, cb, cr) = triple.ints().map { it.toByte() }
                val picture = onePixel(y, cb, cr, YCbCrEncoding(matrix, levels))
                val rgb = picture.pixels.map { it.toInt() and 0xff }
                for ((ours, theirs) in rgb.zip(expected[index].ints())) {
                    assertTrue("$rgb and ${expected[index]}", ours - theirs in -1..1)
                }
            }
        }
    }

    private fun onePixel(y: Byte, cb: Byte, cr: Byte, encoding: YCbCrEncoding): RgbImage {
        val (luma, blue, red) = listOf(y, cb, cr).map { BytePlane(ByteBuffer.wrap(byteArrayOf(it)), 1, 1) }
        return RgbImage.ofPlanes(FrameSize(1, 1), luma, blue, red, encoding)
    }

    /** NV21 as cameras give it: Cr and Cb share their memory, rows are longer than the picture. */
    @Test
    fun interleavedPlanesWithGaps() {
        val luma = BytePlane(ByteBuffer.wrap(byteArrayOf(10, 20, 30, 0, 40, 50, 60)), 4, 1)
        val chroma = byteArrayOf(-128, -128, -128, -128)
        val red = BytePlane(ByteBuffer.wrap(chroma), 4, 2)
        val blue = BytePlane(ByteBuffer.wrap(chroma, 1, 3).slice(), 4, 2)
        val picture = RgbImage.ofPlanes(FrameSize(3, 2), luma, blue, red)
        assertEquals(listOf<Byte>(10, 20, 30, 40, 50, 60), picture.pixels.toList().chunked(3).map { it.first() })
        assertTrue(picture.pixels.toList().chunked(3).all { it.distinct().size == 1 })
    }

    /** A stride that no second sample follows asks for no memory. */
    @Test
    fun oneSampleHasNoStride() {
        val luma = BytePlane(ByteBuffer.wrap(byteArrayOf(7, 9)), 2, 1)
        val chroma = BytePlane(ByteBuffer.wrap(byteArrayOf(-128)), 1, Int.MAX_VALUE)
        val picture = RgbImage.ofPlanes(FrameSize(2, 1), luma, chroma, chroma)
        assertArrayEquals(byteArrayOf(7, 7, 7, 9, 9, 9), picture.pixels)
    }

    /** Two pixels share a colour, wherever a part begins and ends. */
    @Test
    fun partsOfPlanesAreThoseOfTheWhole() {
        val size = FrameSize(9, 7)
        val luma = BytePlane(ByteBuffer.wrap(ByteArray(63) { (it * 37).toByte() }), 9, 1)
        fun chroma(start: Int) = BytePlane(ByteBuffer.wrap(ByteArray(40) { (it * 53 + start).toByte() }), 10, 2)
        val planes = listOf(luma, chroma(0), chroma(90))
        val whole = PlaneRows(size, planes, YCbCrEncoding.CAMERA).picture()
        for (left in 0..3) for (top in 0..2) for (width in 1..9 - left) {
            val part = FrameSize(width, 7 - top)
            val expected = (0 until part.height).flatMap { row ->
                val start = 3 * ((top + row) * size.width + left)
                whole.pixels.slice(start until start + 3 * width)
            }
            val seen = PlaneRows(part, planes, YCbCrEncoding.CAMERA, left, top).picture()
            assertEquals("$left, $top, $width", expected, seen.pixels.toList())
        }
    }

    @Test
    fun planesThatAreTooSmallAreRefused() {
        val plane = BytePlane(ByteBuffer.allocate(6), 3, 1)
        val size = FrameSize(3, 2)
        for (bad in listOf(BytePlane(ByteBuffer.allocate(5), 3, 1), BytePlane(ByteBuffer.allocate(6), 0, 1))) {
            assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.ofPlanes(size, bad, plane, plane) }
        }
        val hostile = BytePlane(ByteBuffer.allocate(6), Int.MAX_VALUE, Int.MAX_VALUE)
        assertRefused(KitException.Kind.WRONG_INPUT) { RgbImage.ofPlanes(size, hostile, plane, plane) }
    }
}
