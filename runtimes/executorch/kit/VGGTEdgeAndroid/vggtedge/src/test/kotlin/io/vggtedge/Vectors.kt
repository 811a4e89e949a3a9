package io.vggtedge

import java.util.Base64
import java.util.Locale
import kotlin.math.abs
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assert.fail

/** What the exporter's own Python code says, written by `tests/runtimes/executorch/kit_vectors.py`. */
internal object Vectors {
    private val all: JsonTable by lazy {
        val stream = checkNotNull(Vectors::class.java.getResourceAsStream("/vectors.json"))
        JsonReader(stream.use { it.readBytes().decodeToString() }).value() as JsonTable
    }

    fun cases(name: String): List<JsonTable> {
        val cases = all.tables(name)
        check(cases.isNotEmpty()) { "no vectors called $name" }
        return cases
    }

    val kit: String get() = all.bytes("kit").decodeToString()
    val golden: ByteArray get() = all.bytes("golden")
}

internal fun JsonTable.bytes(key: String): ByteArray = Base64.getDecoder().decode(text(key))

internal fun JsonTable.size(key: String): FrameSize = FrameSize(table(key).int("width"), table(key).int("height"))

/** The rule of a case. */
internal val JsonTable.preprocess: Preprocess
    get() = Preprocess(Preprocess.Mode.valueOf(text("mode").uppercase(Locale.ROOT)), int("patch"))

internal fun JsonTable.floats(key: String): FloatArray = list(key).floats()

internal fun JsonTable.doubles(key: String): DoubleArray = list(key).doubles()

internal fun JsonTable.lists(key: String): List<List<Any?>> = list(key).map { it as List<*> }

internal fun List<Any?>.doubles(): DoubleArray = DoubleArray(size) { (get(it) as Number).toDouble() }

internal fun List<Any?>.floats(): FloatArray = FloatArray(size) { (get(it) as Number).toFloat() }

internal fun List<Any?>.ints(): List<Int> = map { (it as Long).toInt() }

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
