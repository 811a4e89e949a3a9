package io.vggtedge

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What EXIF says of a picture.
 *
 * [orientation]: how it has to be turned. [isAdobeRgb]: whether its colours are those of Adobe RGB.
 */
internal class ExifData(val orientation: Orientation, val isAdobeRgb: Boolean) {
    companion object {
        private const val ORIENTATION = 0x0112
        private const val DETAILS = 0x8769
        private const val INTEROPERABILITY = 0xA005
        private const val INDEX = 1
        private const val ENTRY_BYTES = 12

        /** Data that cannot be read say nothing, as for the system. */
        fun of(file: ByteBuffer, start: Int, length: Int): ExifData? =
            try {
                val begin = if (file.holds("Exif\u0000\u0000", start)) 6 else 0
                read(file.part(start + begin, length - begin))
            } catch (_: IndexOutOfBoundsException) {
                null
            } catch (_: IllegalArgumentException) {
                null
            }

        private fun read(bytes: ByteBuffer): ExifData {
            bytes.order(if (bytes.holds("II", 0)) ByteOrder.LITTLE_ENDIAN else ByteOrder.BIG_ENDIAN)
            val first = bytes.getInt(4)
            val orientation = entry(bytes, first, ORIENTATION)?.let { bytes.getShort(it).toInt() }
            val details = entry(bytes, first, DETAILS)?.let { bytes.getInt(it) }
            val others = details?.let { entry(bytes, it, INTEROPERABILITY) }?.let { bytes.getInt(it) }
            val index = others?.let { entry(bytes, it, INDEX) }
            return ExifData(Orientation.ofExif(orientation ?: 1), index != null && bytes.holds("R03", index))
        }

        /** Where the value of a tag lies in the table at [table]; null without that tag. */
        private fun entry(bytes: ByteBuffer, table: Int, tag: Int): Int? {
            val count = bytes.getShort(table).toInt() and 0xffff
            return (0 until count)
                .map { table + 2 + ENTRY_BYTES * it }
                .firstOrNull { (bytes.getShort(it).toInt() and 0xffff) == tag }
                ?.let { it + 8 }
        }
    }
}
