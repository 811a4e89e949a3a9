package io.vggtedge

import java.util.Locale
import org.pytorch.executorch.ExecutorchRuntimeException

// Load errors arrive as 0x12, with the code that says something in their text.
private val NATIVE_CODE = Regex("""\[Native Error: 0x([0-9A-Fa-f]{1,4})]""")
private const val LONGEST_TEXT = 300

/** What an app can do about a code of ExecuTorch's. */
private val REMEDIES =
    mapOf(
        0x01 to "free memory and load again: XNNPACK says so where it finds none",
        0x14 to "an operator is missing in this AAR: take executorch-android as the kit's README names it",
        0x20 to "a backend is missing in this AAR: take the flavour for this program, see the README",
        0x21 to "free memory, or export fewer or smaller frames",
        0x22 to "the file cannot be read or mapped: check space and permissions, and load again",
        0x23 to "the program is damaged: copy it from the bundle again",
        0x30 to "the program is for another version of ExecuTorch: take the one that kit.json names",
    )

/** Runs native code. Whatever it throws becomes a [KitException]: an app can do no more than show it. */
@Suppress("TooGenericExceptionCaught")
internal fun <T> executing(what: String, action: () -> T): T =
    try {
        action()
    } catch (error: KitException) {
        throw error
    } catch (error: Exception) { // fbjni throws also what Kotlin would have to declare
        throw failed(what, error)
    } catch (error: LinkageError) {
        throw failed(what, error)
    } catch (error: OutOfMemoryError) {
        throw failed(what, error)
    }

private fun failed(what: String, error: Throwable): KitException {
    val code = runtimeCode(error)
    val place = if (code == null) "" else String.format(Locale.ROOT, " (code 0x%02x)", code)
    return KitException(
        KitException.Kind.MODEL_FAILED,
        "ExecuTorch cannot $what the model$place: ${(error.message ?: error.javaClass.name).take(LONGEST_TEXT)}",
        REMEDIES[code] ?: remedy(error),
        error,
        code,
    )
}

private fun runtimeCode(error: Throwable): Int? {
    // The class itself may be what is missing.
    if (error is LinkageError || error is OutOfMemoryError) return null
    val hidden = NATIVE_CODE.find(error.message.orEmpty())?.groupValues?.get(1)?.toInt(16)
    return hidden ?: (error as? ExecutorchRuntimeException)?.errorCode
}

private fun remedy(error: Throwable): String =
    when (error) {
        is OutOfMemoryError -> "free memory, or export fewer or smaller frames"
        is LinkageError -> "the app lacks ExecuTorch's classes or libraries: see the README on R8 and on flavours"
        else -> "load the model again; see the README for what a code of ExecuTorch means"
    }
