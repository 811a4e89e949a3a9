package io.vggtedge

import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

// org.json turns 2.5 into 2 and "2" into 2 where an Int is asked for. What a kit says has to be what it means.

/** Parses a text, and gives what [read] makes of it. */
internal fun <T> readJson(text: String, damaged: (String) -> KitException, read: (JSONObject) -> T): T =
    try {
        read(JSONObject(text))
    } catch (error: JSONException) {
        throw damaged("it is not understood (${error.message})")
    } catch (error: StackOverflowError) {
        throw damaged("it is nested too deeply")
    }

internal fun JSONObject.text(key: String): String = get(key) as? String ?: throw wrongType(key)

internal fun JSONObject.textOrNull(key: String): String? = if (isNull(key)) null else text(key)

internal fun JSONObject.whole(key: String): Long = wholeOrNull(get(key)) ?: throw wrongType(key)

internal fun JSONObject.int(key: String): Int =
    whole(key).also { if (it !in Int.MIN_VALUE..Int.MAX_VALUE) throw wrongType(key) }.toInt()

internal fun JSONObject.numberOrNull(key: String): Double? {
    if (isNull(key)) return null
    val number = (get(key) as? Number ?: throw wrongType(key)).toDouble()
    return if (number.isFinite()) number else throw wrongType(key)
}

internal fun JSONObject.table(key: String): JSONObject = get(key) as? JSONObject ?: throw wrongType(key)

internal fun JSONObject.tableOrNull(key: String): JSONObject? = if (isNull(key)) null else table(key)

internal fun JSONObject.tables(key: String): List<JSONObject> =
    array(key).map { it as? JSONObject ?: throw wrongType(key) }

internal fun JSONObject.wholes(key: String): List<Long> = array(key).map { wholeOrNull(it) ?: throw wrongType(key) }

private fun JSONObject.array(key: String): List<Any> {
    val array = get(key) as? JSONArray ?: throw wrongType(key)
    return List(array.length()) { array.get(it) }
}

private fun wholeOrNull(value: Any): Long? = (value as? Int)?.toLong() ?: value as? Long

private fun wrongType(key: String) = JSONException("$key is of another type")
