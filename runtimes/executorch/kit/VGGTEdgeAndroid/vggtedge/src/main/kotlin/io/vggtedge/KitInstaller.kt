package io.vggtedge

import android.content.Context
import android.content.res.AssetManager
import android.os.storage.StorageManager
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.util.concurrent.CompletableFuture
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext

/** Opens the files of a kit by their names: assets, a download, whatever an app has. */
public fun interface KitSource {
    /** The file [name] from its beginning. Throws [IOException] where there is none. */
    @Throws(IOException::class)
    public fun open(name: String): InputStream

    /** The usual sources. */
    public companion object {
        /** The assets in [folder], of the app or of an AI pack that is delivered at installation. */
        @JvmStatic
        public fun assets(assets: AssetManager, folder: String): KitSource = KitSource { assets.open("$folder/$it") }

        /** The files in a folder. */
        @JvmStatic
        public fun folder(folder: File): KitSource = KitSource { File(folder, it).inputStream() }
    }
}

/**
 * Copies a kit to where ExecuTorch can map it: into a folder of the app's files.
 *
 * Where that kit lies there already, nothing is copied. Each file is written beside its place, compared with the sha256
 * in `kit.json`, and renamed: open models keep the old program, and a kit that cannot be copied leaves the old one.
 *
 * ```kotlin
 * val installer = KitInstaller(context, File(context.filesDir, "vggt"))
 * val model = VGGTModel.load(installer.install(KitSource.assets(context.assets, "kit")))
 * ```
 *
 * @property context Any context of the app.
 * @property folder Where the kit will lie; made if it is not there. Nothing else belongs into it.
 * @property withGolden Whether golden tensors are copied too: [DeviceCheck] needs them, a model does not.
 */
public class KitInstaller
@JvmOverloads
constructor(public val context: Context, public val folder: File, public val withGolden: Boolean = false) {
    /**
     * Copies the kit from [source] and returns [folder]. Stops at the next part of a file when the caller is cancelled.
     *
     * Computes on a thread of the kit's own. Throws [KitException] where there is too little space, a file cannot be
     * read or written, or is not what `kit.json` lists.
     */
    public suspend fun install(source: KitSource, progress: LoadProgress? = null): File =
        withContext(ModelLoader.dispatcher) {
            storing { copyKit(source, progress) { ensureActive() } }
            folder
        }

    /** [install] for Java. Cancelling the future is cancelling the call. */
    @JvmOverloads
    public fun installAsync(source: KitSource, progress: LoadProgress? = null): CompletableFuture<File> =
        future { install(source, progress) }

    private fun copyKit(source: KitSource, progress: LoadProgress?, checkActive: () -> Unit) {
        val text = source.open(Kit.FILE_NAME).use(Kit::contents)
        val kit = Kit.parse(text)
        val files = files(kit)
        if (isPlaced(text, files.keys)) return
        Files.createDirectories(folder.toPath())
        val old = runCatching { names(Kit.read(folder)) }.getOrDefault(emptyList())
        val whole = files.keys.sumOf { name -> source.open(name).use { it.available().toLong() } }
        takeSpace(whole)
        try {
            var copied = 0L
            for ((name, sha256) in files) {
                val found = source.open(name).use { from ->
                    copy(from, part(name)) { count ->
                        checkActive()
                        copied += count
                        progress?.onProgress(minOf(1.0, copied.toDouble() / maxOf(1L, whole)))
                    }
                }
                checkDigest(name, found, sha256)
            }
            // The last one: without it, or with that of before, the kit is copied again.
            copy(text.inputStream(), part(Kit.FILE_NAME))
            for (name in files.keys + Kit.FILE_NAME) rename(name)
            for (name in old - files.keys) File(folder, name).delete()
        } finally {
            for (name in files.keys + Kit.FILE_NAME) part(name).delete()
        }
    }

    private fun isPlaced(kit: ByteArray, names: Set<String>): Boolean {
        val placed = File(folder, Kit.FILE_NAME)
        return placed.isFile && placed.readBytes().contentEquals(kit) && names.all { File(folder, it).isFile }
    }

    /** The sha256 by the name of each file but `kit.json`. */
    private fun files(kit: Kit): Map<String, String> {
        val files = linkedMapOf(kit.model.program to kit.model.sha256)
        kit.model.weights?.let { files[it] = kit.model.weightsSha256.orEmpty() }
        kit.golden?.takeIf { withGolden }?.let { files[it.file] = it.sha256 }
        return files
    }

    private fun names(kit: Kit): List<String> = listOfNotNull(kit.model.program, kit.model.weights, kit.golden?.file)

    private fun part(name: String) = File(folder, "$name.part")

    private fun rename(name: String) {
        Files.move(part(name).toPath(), File(folder, name).toPath(), StandardCopyOption.ATOMIC_MOVE)
    }

    /** Asks the system for space, which empties caches of other apps for it. */
    private fun takeSpace(bytes: Long) {
        val storage = context.getSystemService(StorageManager::class.java)
        val volume = storage.getUuidForPath(folder)
        val free = storage.getAllocatableBytes(volume)
        if (bytes > free) {
            throw KitException(
                KitException.Kind.STORAGE,
                "the kit takes $bytes bytes, and $free can be had in $folder",
                "ask the user to free storage, and install again",
            )
        }
        storage.allocateBytes(volume, bytes)
    }

    private fun storing(action: () -> Unit) {
        try {
            action()
        } catch (error: IOException) {
            throw KitException(
                KitException.Kind.STORAGE,
                "the kit cannot be copied into $folder: ${error.message}",
                "look whether the source has kit.json and the program, and whether there is space",
                error,
            )
        }
    }
}
