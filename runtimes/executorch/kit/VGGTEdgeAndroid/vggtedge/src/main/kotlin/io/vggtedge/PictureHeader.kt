package io.vggtedge

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A reason not to read a picture, and what helps. */
internal class PictureProblem(reason: String, val remedy: String = "save it in sRGB") : Exception(reason)

/**
 * What the file of a picture says beside its pixels.
 *
 * The system decodes pictures and converts their colours, but it keeps quiet about what it had to guess, and it fills
 * in rows that are missing. So this looks at the bytes too, by the rules of the exporter's reader.
 */
internal object PictureHeader {
    /**
     * How the picture has to be turned; null for a format that is not looked at.
     *
     * Throws [PictureProblem] for a file that is cut short, or whose colours could be meant in more than one way.
     */
    fun orientation(file: ByteBuffer): Orientation? {
        val bytes = file.slice().order(ByteOrder.BIG_ENDIAN)
        return try {
            when {
                bytes.holds("\u00ff\u00d8\u00ff", 0) -> JpegHeader(bytes).orientation()
                bytes.holds("\u0089PNG\r\n\u001a\n", 0) -> PngHeader(bytes).orientation()
                bytes.holds("RIFF", 0) && bytes.holds("WEBP", 8) -> webp(bytes)
                bytes.holds("BM", 0) -> bmp(bytes)
                else -> null
            }
        } catch (_: IndexOutOfBoundsException) {
            throw cutShort()
        }
    }

    private fun webp(bytes: ByteBuffer): Orientation {
        val little = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN)
        val end = 8 + little.size(4)
        if (end > bytes.limit()) throw cutShort()
        var exif: ExifData? = null
        var at = 12
        while (at + 8 <= end) {
            val length = little.size(at + 4)
            if (bytes.holds("EXIF", at)) exif = ExifData.of(bytes, at + 8, length)
            if (bytes.holds("ICCP", at)) checkProfile(bytes.part(at + 8, length), setOf("RGB "))
            if (length > bytes.limit() - at - 8) throw cutShort()
            at += 8 + length + length % 2
        }
        return exif?.orientation ?: Orientation.UPRIGHT
    }

    private fun bmp(bytes: ByteBuffer): Orientation {
        val little = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN)
        if (little.size(2) > bytes.limit()) throw cutShort()
        val hasProfile = little.size(14) >= 124 && (bytes.holds("DEBM", 70) || bytes.holds("KNIL", 70))
        if (hasProfile) throw PictureProblem("it carries a colour profile, which is not read from BMP")
        return Orientation.UPRIGHT
    }
}

internal fun cutShort() = PictureProblem("it is cut short", "copy or download the file again")

/** Throws [PictureProblem] unless this is a whole ICC profile for pixels of one of these kinds, four letters each. */
internal fun checkProfile(profile: ByteBuffer, kinds: Set<String>) {
    val isWhole = profile.limit() >= 128 && profile.holds("acsp", 36) && profile.getInt(0) in 128..profile.limit()
    if (!isWhole) throw PictureProblem("its colour profile cannot be read")
    if (kinds.none { profile.holds(it, 16) }) throw PictureProblem("its colour profile is for other pixels than it has")
}

/** Whether these bytes lie there; no if the file ends before. */
internal fun ByteBuffer.holds(text: String, at: Int): Boolean =
    text.length <= limit() - at && text.indices.all { (get(at + it).toInt() and 0xff) == text[it].code }

/** A length of 32 bits. Throws for one that no file has. */
internal fun ByteBuffer.size(at: Int): Int {
    val value = getInt(at)
    return if (value < 0) throw cutShort() else value
}

/** A view of some bytes. Throws for a part that is not there. */
internal fun ByteBuffer.part(start: Int, length: Int): ByteBuffer {
    if (length > limit() - start) throw cutShort()
    val view = duplicate()
    view.position(start).limit(start + length)
    return view.slice()
}
