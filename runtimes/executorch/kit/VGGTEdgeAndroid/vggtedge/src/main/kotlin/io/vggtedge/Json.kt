package io.vggtedge

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** Why a text is no JSON, or a value not the one that was asked for. Never holds more than a few words of the text. */
internal class JsonProblem(message: String) : Exception(message)

/** A table of a JSON text. A key has to be there; what may be missing is written as null. */
internal class JsonTable(private val members: Map<String, Any?>) {
    val keys: Set<String> get() = members.keys

    fun text(key: String): String = get(key) as? String ?: throw wrongType(key, "a text")

    fun textOrNull(key: String): String? = if (get(key) == null) null else text(key)

    fun whole(key: String): Long = get(key) as? Long ?: throw wrongType(key, "a whole number")

    fun int(key: String): Int {
        val value = whole(key)
        if (value !in Int.MIN_VALUE..Int.MAX_VALUE) throw wrongType(key, "a whole number of 32 bits")
        return value.toInt()
    }

    fun numberOrNull(key: String): Double? =
        get(key)?.let { (it as? Number ?: throw wrongType(key, "a number or null")).toDouble() }

    fun table(key: String): JsonTable = get(key) as? JsonTable ?: throw wrongType(key, "a table")

    fun tableOrNull(key: String): JsonTable? = if (get(key) == null) null else table(key)

    fun list(key: String): List<Any?> = get(key) as? List<*> ?: throw wrongType(key, "a list")

    fun tables(key: String): List<JsonTable> =
        list(key).map { it as? JsonTable ?: throw wrongType(key, "a list of tables") }

    fun wholes(key: String): List<Long> =
        list(key).map { it as? Long ?: throw wrongType(key, "a list of whole numbers") }

    private fun get(key: String): Any? {
        if (key !in members) throw JsonProblem("the key $key is missing")
        return members[key]
    }

    private fun wrongType(key: String, expected: String) = JsonProblem("$key is not $expected")
}

/** Parses a table, and gives what [read] makes of it. */
internal fun <T> readJson(text: ByteArray, damaged: (String) -> KitException, read: (JsonTable) -> T): T =
    try {
        read(JsonReader(strictText(text)).value() as? JsonTable ?: throw JsonProblem("the text holds no table"))
    } catch (problem: JsonProblem) {
        throw damaged("it is not understood (${problem.message})")
    }

/** The text of UTF-8 bytes; bytes that are none are an error, not a question mark. */
internal fun strictText(bytes: ByteArray): String {
    val decoder = Charsets.UTF_8.newDecoder()
    decoder.onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
    try {
        return decoder.decode(ByteBuffer.wrap(bytes)).toString()
    } catch (error: CharacterCodingException) {
        throw JsonProblem("bytes that are no UTF-8: ${error.message}")
    }
}

/**
 * Reads one JSON value of which there is only one reading.
 *
 * Refused is what parsers read differently: a key given twice, comments, a byte order mark, text behind the value,
 * numbers such as `016` or `NaN`, raw control characters in texts, half a surrogate pair. Depth and number of values
 * are bounded, so that a small file cannot ask for a large memory.
 *
 * Values are null, Boolean, Long (a whole number without fraction and exponent), Double, String, List and [JsonTable].
 */
internal class JsonReader(private val text: String) {
    private var at = 0
    private var values = 0

    /** The whole text. */
    fun value(): Any? {
        val value = value(1)
        skipSpace()
        if (at < text.length) throw problem("something behind the value")
        return value
    }

    private fun value(depth: Int): Any? {
        values += 1
        if (values > MOST_VALUES) throw problem("more than $MOST_VALUES values")
        skipSpace()
        return when (peek()) {
            '{' -> table(depth)
            '[' -> list(depth)
            '"' -> string()
            't' -> literal("true", true)
            'f' -> literal("false", false)
            'n' -> literal("null", null)
            else -> number()
        }
    }

    private fun table(depth: Int): JsonTable {
        val members = LinkedHashMap<String, Any?>()
        items(depth, '}') {
            skipSpace()
            val key = string()
            if (key in members) throw problem("a key given twice")
            skipSpace()
            expect(':')
            members[key] = value(depth + 1)
        }
        return JsonTable(members)
    }

    private fun list(depth: Int): List<Any?> {
        val result = ArrayList<Any?>()
        items(depth, ']') { result.add(value(depth + 1)) }
        return result
    }

    /** What stands between a bracket and its [end], with commas between. */
    private fun items(depth: Int, end: Char, item: () -> Unit) {
        if (depth > DEEPEST) throw problem("more than $DEEPEST levels")
        at += 1
        skipSpace()
        if (peek() == end) {
            at += 1
            return
        }
        while (true) {
            item()
            skipSpace()
            if (peek() == end) break
            expect(',')
        }
        at += 1
    }

    private fun literal(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) throw problem("an unknown word")
        at += word.length
        return value
    }

    private fun number(): Any {
        val start = at
        if (peek() == '-') at += 1
        if (peek() == '0') at += 1 else digits()
        val isWhole = peek() != '.' && peek() != 'e' && peek() != 'E'
        if (peek() == '.') {
            at += 1
            digits()
        }
        if (peek() == 'e' || peek() == 'E') {
            at += 1
            if (peek() == '+' || peek() == '-') at += 1
            digits()
        }
        val word = text.substring(start, at)
        val number = (if (isWhole) word.toLongOrNull() else null) ?: word.toDouble()
        if (number is Double && !number.isFinite()) throw problem("a number that is too large")
        return number
    }

    private fun digits() {
        val start = at
        while (peek() in '0'..'9') at += 1
        if (at == start) throw problem("no value where one is expected")
    }

    private fun string(): String {
        expect('"')
        val result = StringBuilder()
        while (true) {
            val next = peek()
            if (next == END) throw problem("a text that does not end")
            at += 1
            when {
                next == '"' -> return result.toString()
                next == '\\' -> result.append(escaped())
                next < ' ' -> throw problem("a control character in a text")
                else -> result.append(next)
            }
        }
    }

    private fun escaped(): String {
        val kind = peek()
        at += 1
        if (kind == 'u') return unicode()
        val index = ESCAPES.indexOf(kind)
        if (index < 0) throw problem("an unknown escape")
        return MEANINGS.substring(index, index + 1)
    }

    /** One character, or the two halves of a pair; never one half alone. */
    private fun unicode(): String {
        val first = fourDigits()
        if (!first.isSurrogate()) return first.toString()
        if (first.isLowSurrogate() || !text.startsWith("\\u", at)) throw problem("half a surrogate pair")
        at += 2
        val second = fourDigits()
        if (!second.isLowSurrogate()) throw problem("half a surrogate pair")
        return "$first$second"
    }

    private fun fourDigits(): Char {
        val digits = text.substring(at, minOf(at + 4, text.length))
        if (digits.length < 4 || !digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) {
            throw problem("an escape without four digits")
        }
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun skipSpace() {
        while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') at += 1
    }

    private fun expect(char: Char) {
        if (peek() != char) throw problem("no $char where one is expected")
        at += 1
    }

    /** The next character; [END] behind the last, which no text can hold outside of an escape. */
    private fun peek(): Char = if (at < text.length) text[at] else END

    private fun problem(what: String) = JsonProblem("$what, at character $at")

    private companion object {
        const val END = '\u0000'
        const val DEEPEST = 32
        const val MOST_VALUES = 200_000
        const val ESCAPES = "\"\\/bfnrt"
        const val MEANINGS = "\"\\/\b\u000c\n\r\t"
    }
}
