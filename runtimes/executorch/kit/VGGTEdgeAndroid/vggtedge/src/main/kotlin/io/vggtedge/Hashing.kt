package io.vggtedge

import java.io.File
import java.io.IOException
import java.security.MessageDigest

private const val PART = 1 shl 20
private const val HEX = "0123456789abcdef"

/** The sha256 of a file in hexadecimal digits. [hashed] is told the bytes of each part, and may stop it by throwing. */
internal fun sha256(file: File, hashed: (Int) -> Unit = {}): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val part = ByteArray(PART)
    file.inputStream().use { stream ->
        while (true) {
            val count = stream.read(part)
            if (count < 0) break
            digest.update(part, 0, count)
            hashed(count)
        }
    }
    return hex(digest.digest())
}

internal fun hex(bytes: ByteArray): String = buildString {
    for (byte in bytes) append(HEX[byte.toInt() shr 4 and 15]).append(HEX[byte.toInt() and 15])
}

/** Throws a [KitException] unless the file is byte for byte what `kit.json` lists. */
internal fun checkFile(file: File, sha256: String, hashed: (Int) -> Unit = {}) {
    val found =
        try {
            sha256(file, hashed)
        } catch (error: IOException) {
            throw damaged(file, "cannot be read: ${error.message}", error)
        }
    if (found != sha256) throw damaged(file, "is not the file that kit.json lists")
}

private fun damaged(file: File, reason: String, cause: Throwable? = null) =
    KitException(
        KitException.Kind.DAMAGED_FILE,
        "${file.name} $reason",
        "take kit.json and all files out of the same bundle again",
        cause,
    )
