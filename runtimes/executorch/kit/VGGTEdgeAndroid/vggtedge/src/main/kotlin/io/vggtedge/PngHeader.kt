package io.vggtedge

import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.util.zip.DataFormatException
import java.util.zip.Inflater
import kotlin.math.abs

/** The chunks of a PNG. */
internal class PngHeader(private val bytes: ByteBuffer) {
    /** Names of the chunks with the places of their contents. */
    private val chunks = ArrayList<Pair<String, ByteBuffer>>()

    init {
        var at = SIGNATURE_BYTES
        do {
            val length = bytes.size(at)
            val name = String(CharArray(4) { (bytes.get(at + 4 + it).toInt() and 0xff).toChar() })
            chunks += name to bytes.part(at + 8, length)
            at += 12 + length
        } while (name != "IEND")
    }

    private val header = chunk("IHDR")?.takeIf { it.limit() == 13 } ?: throw cutShort()
    private val depth = header.get(8).toInt()
    private val kind = header.get(9).toInt()

    fun orientation(): Orientation {
        checkColors()
        checkRows()
        return chunk("eXIf")?.let { ExifData.of(it, 0, it.limit()) }?.orientation ?: Orientation.UPRIGHT
    }

    private fun chunk(name: String): ByteBuffer? = chunks.firstOrNull { it.first == name }?.second

    private fun checkColors() {
        val points = chunk("cICP")
        if (points != null && (points.get(0).toInt() != 1 || points.get(1).toInt() != SRGB_TRANSFER)) {
            throw PictureProblem("its cICP chunk says another colour space than sRGB")
        }
        if (depth == 16 && chunk("tRNS") != null) {
            throw PictureProblem("it has 16 bits and a transparent colour", "save it with an alpha channel")
        }
        val profile = chunk("iCCP")
        if (profile != null) {
            checkProfile(unpacked(profile), if (kind in GREY) setOf("GRAY", "RGB ") else setOf("RGB "))
        } else if (chunk("sRGB") == null && !(isNear(chunk("gAMA"), GAMMA) && isNear(chunk("cHRM"), CORNERS))) {
            throw PictureProblem("its gAMA or cHRM chunk says another colour space than sRGB")
        }
    }

    /** Numbers in units of 1/100000. */
    private fun isNear(chunk: ByteBuffer?, usual: List<Int>): Boolean =
        chunk == null || usual.indices.all { abs(chunk.getInt(4 * it).toLong() - usual[it]) <= TOLERANCE }

    /** A name, a zero, the way it was packed, and the profile. */
    private fun unpacked(chunk: ByteBuffer): ByteBuffer {
        val start = 2 + (0 until chunk.limit()).indexOfFirst { chunk.get(it).toInt() == 0 }
        val profile = ByteArrayOutputStream()
        inflate(listOf(chunk.part(start, chunk.limit() - start))) { part, count ->
            profile.write(part, 0, count)
            profile.size() < MOST_PROFILE_BYTES
        }
        return ByteBuffer.wrap(profile.toByteArray())
    }

    /** The system makes up rows that are not there. */
    private fun checkRows() {
        var left = rowBytes()
        inflate(chunks.filter { it.first == "IDAT" }.map { it.second }) { _, count ->
            left -= count
            left > 0
        }
        if (left > 0) throw cutShort()
    }

    /** Bytes of the unpacked rows, each with its filter's byte. */
    private fun rowBytes(): Long {
        val (width, height) = listOf(header.size(0).toLong(), header.size(4).toLong())
        val bits = depth * CHANNELS.getOrElse(kind) { 1 }
        fun pass(left: Int, top: Int, across: Int, down: Int): Long {
            val columns = (width - left + across - 1) / across
            val rows = (height - top + down - 1) / down
            return if (columns > 0 && rows > 0) rows * (1 + (columns * bits + 7) / 8) else 0
        }
        if (header.get(12).toInt() == 0) return pass(0, 0, 1, 1)
        return ADAM7.sumOf { (left, top, across, down) -> pass(left, top, across, down) }
    }

    /** Unpacks until the end, damage, or [use] says that it has enough. */
    private fun inflate(packed: List<ByteBuffer>, use: (ByteArray, Int) -> Boolean) {
        val inflater = Inflater()
        val part = ByteArray(PART)
        try {
            for (chunk in packed) {
                inflater.setInput(ByteArray(chunk.limit()).also { chunk.duplicate().get(it) })
                while (!inflater.finished()) {
                    val count = inflater.inflate(part)
                    if (count == 0) break
                    if (!use(part, count)) return
                }
            }
        } catch (_: DataFormatException) {
            return
        } finally {
            inflater.end()
        }
    }

    private companion object {
        const val SIGNATURE_BYTES = 8
        const val SRGB_TRANSFER = 13
        const val TOLERANCE = 500
        const val PART = 1 shl 16
        const val MOST_PROFILE_BYTES = 4 shl 20
        val GAMMA = listOf(45_455)
        val CORNERS = listOf(31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
        val GREY = setOf(0, 4)
        val CHANNELS = mapOf(0 to 1, 2 to 3, 3 to 1, 4 to 2, 6 to 4)

        /** First column, first row, step of columns, step of rows of the passes of an interlaced PNG. */
        val ADAM7 = listOf(
            listOf(0, 0, 8, 8), listOf(4, 0, 8, 8), listOf(0, 4, 4, 8), listOf(2, 0, 4, 4), listOf(0, 2, 2, 4),
            listOf(1, 0, 2, 2), listOf(0, 1, 1, 2),
        )
    }
}
