package io.vggtedge

import java.util.Base64
import kotlin.math.abs
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assert.fail

/** What the exporter's own Python code says, written by `tests/runtimes/executorch/kit_vectors.py`. */
internal object Vectors {
    private val all: JSONObject by lazy {
        val stream = checkNotNull(Vectors::class.java.getResourceAsStream("/vectors.json"))
        JSONObject(stream.use { it.readBytes().decodeToString() })
    }

    fun cases(name: String): List<JSONObject> {
        val array = all.getJSONArray(name)
        check(array.length() > 0) { "no vectors called $name" }
        return List(array.length()) { array.getJSONObject(it) }
    }

    val kit: String get() = all.bytes("kit").decodeToString()
    val golden: ByteArray get() = all.bytes("golden")
}

internal fun JSONObject.bytes(key: String): ByteArray = Base64.getDecoder().decode(getString(key))

internal fun JSONObject.size(key: String): FrameSize {
    val size = getJSONObject(key)
    return FrameSize(size.getInt("width"), size.getInt("height"))
}

internal fun JSONObject.floats(key: String): FloatArray = getJSONArray(key).floats()

internal fun JSONArray.floats(): FloatArray = FloatArray(length()) { getDouble(it).toFloat() }

internal fun JSONArray.doubles(): DoubleArray = DoubleArray(length()) { getDouble(it) }

internal fun JSONArray.ints(): IntArray = IntArray(length()) { getInt(it) }

internal fun JSONArray.arrays(): List<JSONArray> = List(length()) { getJSONArray(it) }

/** Near in the larger of both, or nearly nothing apart. */
internal fun assertNear(expected: DoubleArray, actual: DoubleArray, tolerance: Double = 1e-9) {
    assertEquals(expected.size, actual.size)
    for (index in expected.indices) {
        val limit = tolerance * maxOf(abs(expected[index]), abs(actual[index]), 1e-3)
        assertTrue("$index: ${expected[index]} and ${actual[index]}", abs(expected[index] - actual[index]) <= limit)
    }
}

/** Runs [action] and returns what it throws; fails if that is nothing, or of another kind. */
internal fun assertRefused(kind: KitException.Kind, action: () -> Any?): KitException {
    try {
        action()
    } catch (error: KitException) {
        assertEquals(error.message, kind, error.kind)
        assertTrue(error.remedy.isNotBlank())
        return error
    }
    fail("nothing was thrown")
    throw AssertionError()
}
