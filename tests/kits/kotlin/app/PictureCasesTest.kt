package io.vggtedge

import android.media.ExifInterface
import java.awt.image.BufferedImage
import java.io.ByteArrayOutputStream
import java.io.File
import javax.imageio.ImageIO
import kotlin.math.abs
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/**
 * The picture files that all kits share, with the values that Python reads.
 *
 * Files go through all of `prepare(file)` up to the resampling. In Android's place Java decodes them and converts their
 * colours: what a device's own decoder makes of them is not tried here.
 */
internal class PictureCasesTest {
    private val folder = File(System.getProperty("picture.cases"))
    private val cases = JsonReader(strictText(File(folder, "cases.json").readBytes())).value() as JsonTable

    private fun upright(file: File): RgbImage {
        val (bitmap, orientation) = decoded(file)
        return BitmapRows(bitmap).picture(orientation)
    }

    @After
    fun forgetOrientation() {
        ExifInterface.standIn = 1
    }

    @Test
    fun everyFileShowsWhatPythonSees() {
        val problems = ArrayList<String>()
        val all = cases.tables("cases")
        assertTrue(all.size > 30)
        for (case in all) problem(case)?.let { problems += "${case.text("file")}: $it" }
        assertEquals(emptyList<String>(), problems)
    }

    private fun problem(case: JsonTable): String? {
        val image =
            try {
                upright(File(folder, case.text("file")))
            } catch (error: KitException) {
                return if (error.isExpected(case)) null else "refused: ${error.what}"
            }
        if ("refused" in case.keys) return "not refused"
        val size = FrameSize(case.int("width"), case.int("height"))
        if (image.size != size) return "${image.size} instead of $size"
        val points = case.list("points").map { point -> (point as List<*>).map { (it as Long).toInt() } }
        val wrong = points.firstOrNull { farthest(image, it) > case.int("tolerance") }
        return wrong?.let { "${colors(image, it)} instead of $it" }
    }

    private fun KitException.isExpected(case: JsonTable) =
        kind == KitException.Kind.WRONG_INPUT && "refused" in case.keys

    private fun colors(image: RgbImage, point: List<Int>): List<Int> =
        List(3) { image.pixels[3 * (point[1] * image.size.width + point[0]) + it].toInt() and 0xff }

    private fun farthest(image: RgbImage, point: List<Int>): Int =
        colors(image, point).zip(point.drop(2)).maxOf { (ours, theirs) -> abs(ours - theirs) }

    /** A file that ends anywhere before its end is refused. */
    @Test
    fun whatIsCutShortIsRefused() {
        for (name in listOf("plain.png", "orientation_6.jpg", "alpha.webp", "display_p3.png")) {
            val bytes = File(folder, name).readBytes()
            for (length in 0 until bytes.size - 1 step 7) {
                val part = File.createTempFile("short", name.takeLast(5)).apply { writeBytes(bytes.copyOf(length)) }
                assertRefused(KitException.Kind.WRONG_INPUT) { decoded(part) }
                part.delete()
            }
        }
    }

    /** The system says the orientation of formats that the kit does not look into. */
    @Test
    fun otherFormatsAreTurnedByTheSystem() {
        val gif = ByteArrayOutputStream()
        ImageIO.write(BufferedImage(3, 2, BufferedImage.TYPE_INT_RGB), "gif", gif)
        val file = File.createTempFile("turned", ".gif").apply { writeBytes(gif.toByteArray()) }
        ExifInterface.standIn = 6
        assertEquals(FrameSize(2, 3), upright(file).size)
        file.delete()
    }
}
