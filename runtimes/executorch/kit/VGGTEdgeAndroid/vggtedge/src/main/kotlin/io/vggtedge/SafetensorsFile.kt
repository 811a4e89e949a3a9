package io.vggtedge

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/**
 * Numbers with a shape, in row-major order.
 *
 * @property shape The sides, the slowest first.
 * @property values As many as the product of the sides. Not to be changed.
 */
public class FloatTensor(public val shape: List<Long>, public val values: FloatArray) {
    init {
        if (shape.any { it < 0 } || count() != values.size.toLong()) {
            throw wrongInput("${values.size} values for the shape $shape", "give one value for each element")
        }
    }

    /** The number of elements, as far as that is not more than there are values. */
    private fun count(): Long {
        if (0L in shape) return 0
        var count = 1L
        for (side in shape) {
            if (side > values.size / count) return -1
            count *= side
        }
        return count
    }
}

/**
 * Reads float32 tensors from a safetensors file and believes nothing that the file says before it has checked it.
 *
 * The format: 8 bytes with the length of the header (little endian), the header as JSON, the tensors without gaps.
 */
public class SafetensorsFile(data: ByteBuffer, private val name: String = "safetensors data") {
    private class Entry(val shape: List<Long>, val start: Int, val count: Int)

    private val data: ByteBuffer = data.slice().order(ByteOrder.LITTLE_ENDIAN)
    private val entries: Map<String, Entry>

    init {
        val length = headerLength()
        val header = ByteArray(length)
        this.data.position(LENGTH_BYTES)
        this.data.get(header)
        entries = readJson(header, ::damaged) { entries(it, LENGTH_BYTES + length) }
    }

    /** The names of the tensors in alphabetical order. */
    public val names: List<String> get() = entries.keys.sorted()

    /** The shape of a tensor, null where the file has no such tensor. */
    internal fun shapeOf(name: String): List<Long>? = entries[name]?.shape

    /** One tensor, copied out of the file. Throws [KitException] if the file has no such tensor. */
    public fun tensor(name: String): FloatTensor {
        val entry = entries[name] ?: throw damaged("it has no tensor $name")
        val part = data.duplicate().order(ByteOrder.LITTLE_ENDIAN)
        part.position(entry.start)
        val values = FloatArray(entry.count)
        part.asFloatBuffer().get(values)
        return FloatTensor(entry.shape, values)
    }

    private fun headerLength(): Int {
        if (data.limit() < LENGTH_BYTES) throw damaged("it has ${data.limit()} bytes")
        val length = data.getLong(0)
        if (length !in 0L..minOf(LONGEST_HEADER, data.limit().toLong() - LENGTH_BYTES)) {
            throw damaged("its header claims ${length.toULong()} bytes")
        }
        return length.toInt()
    }

    private fun damaged(reason: String): KitException =
        KitException(
            KitException.Kind.DAMAGED_FILE,
            "$name is no whole safetensors file: $reason",
            "copy it from the bundle again",
        )

    /** The tensors are float32, and lie one behind the other from [payloadStart] to the end of the file. */
    private fun entries(header: JsonTable, payloadStart: Int): Map<String, Entry> {
        val unsorted = (header.keys - "__metadata__").map { place(it, header.table(it)) }
        val places = unsorted.sortedWith(compareBy({ it.begin }, { it.end }))
        var end = 0L
        val result = HashMap<String, Entry>()
        for (place in places) {
            val size = byteCount(place)
            if (place.begin != end || place.end - place.begin != size) {
                throw damaged("${place.key.take(40)} does not lie where its shape needs it")
            }
            result[place.key] = Entry(place.shape, payloadStart + end.toInt(), (size / Float.SIZE_BYTES).toInt())
            end = place.end
        }
        val held = data.limit() - payloadStart
        if (end != held.toLong()) throw damaged("its tensors take $end bytes, it has $held")
        return result
    }

    private class Place(val key: String, val shape: List<Long>, val begin: Long, val end: Long)

    private fun place(key: String, entry: JsonTable): Place {
        if (entry.text("dtype") != "F32") throw JsonProblem("a tensor is not of the type F32")
        val offsets = entry.wholes("data_offsets")
        if (offsets.size != 2) throw JsonProblem("a tensor has no place")
        return Place(key, entry.wholes("shape"), offsets[0], offsets[1])
    }

    /** What the shape takes, as long as that is within the file. */
    private fun byteCount(place: Place): Long {
        var count = Float.SIZE_BYTES.toLong()
        if (place.shape.any { it < 0 }) throw damaged("${place.key.take(40)} has a negative side")
        if (place.shape.any { it == 0L }) return 0
        for (side in place.shape) {
            if (side > data.limit() / count) throw damaged("${place.key.take(40)} is larger than the file")
            count *= side
        }
        return count
    }

    /** Opens files. */
    public companion object {
        private const val LENGTH_BYTES = 8

        /** No kit has a longer one; what claims to is damaged. */
        private const val LONGEST_HEADER = 1L shl 24

        /**
         * The file, mapped and not read into memory.
         *
         * Throws [KitException] for one that is missing, cut short, or no such file.
         */
        @JvmStatic
        public fun open(file: File): SafetensorsFile {
            try {
                if ('\u0000' in file.path) throw IOException("its name holds a NUL")
                FileChannel.open(file.toPath()).use { channel ->
                    if (channel.size() > Int.MAX_VALUE) throw IOException("it has ${channel.size()} bytes")
                    return SafetensorsFile(channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size()), file.name)
                }
            } catch (error: IOException) {
                throw KitException(
                    KitException.Kind.DAMAGED_FILE,
                    "cannot read ${file.name}: ${error.message}",
                    "copy the file from the bundle again",
                    error,
                )
            }
        }
    }
}
