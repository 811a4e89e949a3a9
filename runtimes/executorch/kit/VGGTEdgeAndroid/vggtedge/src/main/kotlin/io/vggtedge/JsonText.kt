package io.vggtedge

private const val INDENT = "  "

/** A value as JSON: null, Boolean, String, finite numbers, lists, and maps in the order of their keys. */
internal fun jsonText(value: Any?, margin: String = ""): String =
    when (value) {
        null, is Boolean, is Int, is Long -> value.toString()
        is Double -> value.also { require(it.isFinite()) { "JSON has no $it" } }.toString()
        is String -> quoted(value)
        is List<*> -> bracketed('[', ']', value.map { jsonText(it, margin + INDENT) }, margin)
        is Map<*, *> -> {
            val members = value.map { (key, each) -> "${quoted(key.toString())}: ${jsonText(each, margin + INDENT)}" }
            bracketed('{', '}', members, margin)
        }
        else -> throw IllegalArgumentException("JSON has no ${value.javaClass.name}")
    }

private fun bracketed(open: Char, close: Char, items: List<String>, margin: String): String =
    if (items.isEmpty()) "$open$close"
    else items.joinToString(",\n", "$open\n", "\n$margin$close") { "$margin$INDENT$it" }

private fun quoted(text: String): String {
    val result = StringBuilder("\"")
    for (char in text) {
        when {
            char == '"' || char == '\\' -> result.append('\\').append(char)
            char < ' ' || char.isSurrogate() -> result.append("\\u").append(char.code.toString(16).padStart(4, '0'))
            else -> result.append(char)
        }
    }
    return result.append('"').toString()
}
