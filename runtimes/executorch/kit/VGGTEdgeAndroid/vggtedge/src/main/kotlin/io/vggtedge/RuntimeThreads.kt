package io.vggtedge

/**
 * The one pool of threads that ExecuTorch has in a process.
 *
 * Another number of threads makes a new pool, and every model that is open keeps the old one and ends the app in its
 * next prediction. So all models that are open at a time use one number.
 */
internal object RuntimeThreads {
    private val cores: Int get() = Runtime.getRuntime().availableProcessors()
    private var models = 0
    private var threads = 0

    /** Throws [KitException] for a number that no pool can have; 0 stands for a choice of ours. */
    fun check(asked: Int) {
        if (asked in 0..cores) return
        throw wrongInput("$asked threads on $cores cores", "ask for 1 to $cores threads, or 0 for half of the cores")
    }

    /** The number for one more model, until [giveBack]. Throws [KitException] where it is not that of the others. */
    @Synchronized
    fun take(asked: Int): Int {
        check(asked)
        if (models == 0) threads = if (asked == 0) maxOf(1, cores / 2) else asked
        if (asked != 0 && asked != threads) {
            throw wrongInput(
                "$asked threads while models with $threads threads are open",
                "close them first, or load with $threads threads: the process has one pool",
            )
        }
        models += 1
        return threads
    }

    @Synchronized
    fun giveBack() {
        models -= 1
    }
}
