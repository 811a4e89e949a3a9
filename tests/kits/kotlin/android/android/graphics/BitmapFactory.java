package android.graphics;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import javax.imageio.ImageIO;

/** Decodes what Java's own ImageIO decodes, without a colour profile. */
public class BitmapFactory {
    public static Bitmap decodeFile(String pathName) {
        try {
            BufferedImage image = ImageIO.read(new File(pathName));
            if (image == null) return null;
            ColorSpace space = ColorSpace.get(ColorSpace.Named.SRGB);
            return new Bitmap(image.getWidth(), image.getHeight(), Bitmap.Config.ARGB_8888, space, image::getRGB);
        } catch (IOException error) {
            return null;
        }
    }
}
