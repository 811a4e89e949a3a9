package io.vggtedge

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

private const val PART = 1 shl 20
private const val HEX = "0123456789abcdef"

/** The sha256 of a file in hexadecimal digits. [hashed] is told the bytes of each part, and may stop it by throwing. */
internal fun sha256(file: File, hashed: (Int) -> Unit = {}): String =
    file.inputStream().use { digest(it) { _, count -> hashed(count) } }

/** Copies [from] to the file [to], which is on the disk when this returns; the sha256 of what was copied. */
internal fun copy(from: InputStream, to: File, copied: (Int) -> Unit = {}): String =
    FileOutputStream(to).use { out ->
        val digest =
            digest(from) { part, count ->
                out.write(part, 0, count)
                copied(count)
            }
        out.fd.sync()
        digest
    }

private fun digest(from: InputStream, use: (ByteArray, Int) -> Unit): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val part = ByteArray(PART)
    while (true) {
        val count = from.read(part)
        if (count < 0) break
        digest.update(part, 0, count)
        use(part, count)
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
            throw damaged(file.name, "cannot be read: ${error.message}", error)
        }
    checkDigest(file.name, found, sha256)
}

/** Throws a [KitException] unless the file [name] has the sha256 that `kit.json` lists. */
internal fun checkDigest(name: String, found: String, listed: String) {
    if (found != listed) throw damaged(name, "is not the file that kit.json lists")
}

private fun damaged(name: String, reason: String, cause: Throwable? = null) =
    KitException(
        KitException.Kind.DAMAGED_FILE,
        "$name $reason",
        "take kit.json and all files out of the same bundle again",
        cause,
    )
