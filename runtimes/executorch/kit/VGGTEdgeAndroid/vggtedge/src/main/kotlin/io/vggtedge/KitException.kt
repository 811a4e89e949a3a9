package io.vggtedge

/**
 * What went wrong and what to do next. Everything that this library throws on purpose is a [KitException].
 *
 * @property kind The kind of failure, for code that reacts to it.
 * @property what What happened, with the file, tensor or size it happened to.
 * @property remedy What to do next.
 * @property runtimeCode ExecuTorch's own code, such as 0x23; null where ExecuTorch gave none.
 */
public class KitException
@JvmOverloads
constructor(
    public val kind: Kind,
    public val what: String,
    public val remedy: String,
    cause: Throwable? = null,
    public val runtimeCode: Int? = null,
) : RuntimeException("$what; next: $remedy", cause) {
    /** The kinds of failure. */
    public enum class Kind {
        /** A file of the kit is missing, cut short, or not what `kit.json` lists. */
        DAMAGED_FILE,

        /** This device, or this version of the library, cannot use the kit. */
        UNSUPPORTED,

        /** Frames, tensors, sizes or numbers of threads handed in do not fit the model. */
        WRONG_INPUT,

        /** The model gave something that cannot be used, such as NaN. */
        UNUSABLE_OUTPUT,

        /** ExecuTorch could not load or run the model. */
        MODEL_FAILED,

        /** A kit could not be copied: too little space, or files that cannot be read or written. */
        STORAGE,
    }
}

/** An error of the caller's. */
internal fun wrongInput(what: String, remedy: String, cause: Throwable? = null): KitException =
    KitException(KitException.Kind.WRONG_INPUT, what, remedy, cause)
