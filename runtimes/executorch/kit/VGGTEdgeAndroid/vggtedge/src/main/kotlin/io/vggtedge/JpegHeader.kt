package io.vggtedge

import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer

/** The segments of a JPEG up to the end of its (first) picture; a thumbnail lies inside of a segment. */
internal class JpegHeader(private val bytes: ByteBuffer) {
    private var exif: ExifData? = null
    private val profile = ByteArrayOutputStream()
    private var channels = 0
    private var pixels = 0L
    private var scans = 0

    fun orientation(): Orientation {
        var at = 2
        while (marker(at) != END) at = if (marker(at) == FILL) at + 1 else segment(at)
        checkColors()
        if (scans * pixels > MOST_PIXEL_SCANS) {
            throw PictureProblem("it has $scans scans over $pixels pixels", "save it again, not progressive")
        }
        return exif?.orientation ?: Orientation.UPRIGHT
    }

    private fun marker(at: Int): Int {
        if (byte(at) != 0xff) throw cutShort()
        return byte(at + 1)
    }

    private fun byte(at: Int): Int = bytes.get(at).toInt() and 0xff

    private fun short(at: Int): Int = bytes.getShort(at).toInt() and 0xffff

    /** Looks at a segment; where the next marker lies. */
    private fun segment(at: Int): Int {
        val kind = byte(at + 1)
        val length = short(at + 2)
        val start = at + 4
        when {
            kind == APP1 && bytes.holds("Exif\u0000", start) -> exif = exif ?: ExifData.of(bytes, start, length - 2)
            kind == APP2 && bytes.holds("ICC_PROFILE\u0000", start) -> addProfile(start + 14, length - 16)
            kind in FRAMES -> {
                channels = byte(start + 5)
                pixels = short(start + 1).toLong() * short(start + 3)
            }
        }
        if (kind != SCAN) return start + length - 2
        scans += 1
        return afterScan(start + length - 2)
    }

    /** The parts of a profile follow one another. */
    private fun addProfile(start: Int, length: Int) {
        if (length < 0) throw PictureProblem("its colour profile cannot be read")
        val part = ByteArray(length)
        bytes.part(start, length).get(part)
        profile.write(part)
    }

    /** Behind the pixels: a 255 that is neither data nor a mark to start again. */
    private fun afterScan(start: Int): Int {
        var at = start
        while (byte(at) != 0xff || byte(at + 1).let { it == 0 || it == FILL || it in RESTARTS }) at += 1
        return at
    }

    private fun checkColors() {
        if (channels == 4) throw PictureProblem("it has inks (CMYK)")
        if (profile.size() > 0) {
            checkProfile(ByteBuffer.wrap(profile.toByteArray()), if (channels == 1) setOf("GRAY", "RGB ") else RGB)
        } else if (exif?.isAdobeRgb == true) {
            throw PictureProblem("its EXIF says Adobe RGB, but it carries no colour profile")
        }
    }

    private companion object {
        const val APP1 = 0xe1
        const val APP2 = 0xe2
        const val SCAN = 0xda
        const val END = 0xd9
        const val FILL = 0xff
        val FRAMES = (0xc0..0xcf) - setOf(0xc4, 0xc8, 0xcc)
        val RESTARTS = 0xd0..0xd7
        val RGB = setOf("RGB ")

        /** Each scan of a progressive JPEG may visit every pixel: 100 megapixels in 15 scans take seconds. */
        const val MOST_PIXEL_SCANS = 1_500_000_000L
    }
}
