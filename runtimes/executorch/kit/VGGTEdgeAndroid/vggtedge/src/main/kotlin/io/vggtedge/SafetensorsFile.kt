package io.vggtedge

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.json.JSONException
import org.json.JSONObject

/**
 * Numbers with a shape, in row-major order.
 *
 * @property shape The sides, the slowest first.
 * @property values As many as the product of the sides. Not to be changed.
 */
public class FloatTensor(public val shape: List<Long>, public val values: FloatArray) {
    init {
        require(shape.fold(1L) { product, side -> product * side } == values.size.toLong()) {
            "${values.size} values for the shape $shape"
        }
    }
}

/**
 * Reads float32 tensors from a safetensors file and believes nothing that the file says before it has checked it.
 *
 * The format: 8 bytes with the length of the header (little endian), the header as JSON, the tensors without gaps.
 */
public class SafetensorsFile(data: ByteBuffer, private val name: String = "safetensors data") {
    private class Entry(val shape: List<Long>, val start: Int, val count: Int)

    private val data: ByteBuffer = data.duplicate().order(ByteOrder.LITTLE_ENDIAN)
    private val entries: Map<String, Entry>

    init {
        val length = headerLength()
        val header = ByteArray(length)
        this.data.position(LENGTH_BYTES)
        this.data.get(header)
        entries = readJson(header.decodeToString(), ::damaged) { entries(it, LENGTH_BYTES + length) }
    }

    /** The names of the tensors in alphabetical order. */
    public val names: List<String> get() = entries.keys.sorted()

    /** One tensor, copied out of the file. Throws [KitException] if the file has no such tensor. */
    public fun tensor(name: String): FloatTensor {
        val entry = entries[name] ?: throw damaged("it has no tensor $name, only ${names.joinToString()}")
        val part = data.duplicate().order(ByteOrder.LITTLE_ENDIAN)
        part.position(entry.start)
        val values = FloatArray(entry.count)
        part.asFloatBuffer().get(values)
        return FloatTensor(entry.shape, values)
    }

    private fun headerLength(): Int {
        if (data.limit() < LENGTH_BYTES) throw damaged("it has ${data.limit()} bytes")
        val length = data.getLong(0)
        if (length !in 0L..minOf(LONGEST_HEADER, data.limit() - LENGTH_BYTES)) {
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
    private fun entries(header: JSONObject, payloadStart: Int): Map<String, Entry> {
        val keys = header.keys().asSequence().map { it.toString() }.filter { it != "__metadata__" }
        val places = keys.map { place(it, header.table(it)) }.sortedWith(compareBy({ it.begin }, { it.end }))
        var end = 0L
        val result = HashMap<String, Entry>()
        for (place in places) {
            val size = byteCount(place)
            if (place.begin != end || place.end - place.begin != size) {
                throw damaged("${place.key} does not lie where its shape needs it")
            }
            result[place.key] = Entry(place.shape, payloadStart + end.toInt(), (size / Float.SIZE_BYTES).toInt())
            end = place.end
        }
        val held = data.limit() - payloadStart
        if (end != held.toLong()) throw damaged("its tensors take $end bytes, it has $held")
        return result
    }

    private class Place(val key: String, val shape: List<Long>, val begin: Long, val end: Long)

    private fun place(key: String, entry: JSONObject): Place {
        if (entry.text("dtype") != "F32") throw damaged("$key is ${entry.text("dtype")}, not F32")
        val offsets = entry.wholes("data_offsets")
        if (offsets.size != 2) throw JSONException("$key has no place")
        return Place(key, entry.wholes("shape"), offsets[0], offsets[1])
    }

    /** What the shape takes, as long as that is within the file. */
    private fun byteCount(place: Place): Long {
        var count = Float.SIZE_BYTES.toLong()
        if (place.shape.any { it < 0 }) throw damaged("${place.key} has a negative side")
        if (place.shape.any { it == 0L }) return 0
        for (side in place.shape) {
            if (side > data.limit() / count) throw damaged("${place.key} is larger than the file")
            count *= side
        }
        return count
    }

    /** Opens files. */
    public companion object {
        private const val LENGTH_BYTES = 8

        /** No kit has a longer one; what claims to is damaged. */
        private const val LONGEST_HEADER = 1 shl 20

        /**
         * The file, mapped and not read into memory.
         *
         * Throws [KitException] for one that is missing, cut short, or no such file.
         */
        public fun open(file: File): SafetensorsFile {
            try {
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
