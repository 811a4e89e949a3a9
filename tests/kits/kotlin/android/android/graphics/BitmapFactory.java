package android.graphics;

import java.awt.color.ICC_ColorSpace;
import java.awt.color.ICC_Profile;
import java.awt.image.BufferedImage;
import java.awt.image.ColorModel;
import java.awt.image.IndexColorModel;
import java.awt.image.Raster;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.util.Iterator;
import java.util.zip.InflaterInputStream;
import javax.imageio.ImageIO;
import javax.imageio.ImageReader;
import javax.imageio.metadata.IIOMetadata;
import javax.imageio.metadata.IIOMetadataNode;
import javax.imageio.stream.ImageInputStream;
import org.w3c.dom.Node;

/**
 * Decodes what Java's own ImageIO decodes, and converts from a colour profile with Java's colour engine.
 *
 * As on a device: a profile that cannot be used says nothing, alpha is multiplied in while the pixels are stored, and
 * the orientation is not applied. Java reads no WebP: NAME.webp is read from NAME.webp.png in $picture.twins.
 */
public class BitmapFactory {
    public static Bitmap decodeFile(String pathName) {
        try {
            File file = new File(pathName);
            File twin = new File(System.getProperty("picture.twins", "."), file.getName() + ".png");
            return decoded(pathName.endsWith(".webp") ? twin : file);
        } catch (IOException error) {
            return null;
        }
    }

    private static Bitmap decoded(File file) throws IOException {
        try (ImageInputStream stream = ImageIO.createImageInputStream(file)) {
            if (stream == null) return null;
            Iterator<ImageReader> readers = ImageIO.getImageReaders(stream);
            if (!readers.hasNext()) return null;
            ImageReader reader = readers.next();
            reader.setInput(stream);
            BufferedImage image = reader.read(0);
            ICC_ColorSpace space = colorSpace(image, reader.getImageMetadata(0));
            byte[] transparent = transparentColor(reader.getImageMetadata(0));
            int[] colors = new int[image.getWidth() * image.getHeight()];
            for (int at = 0; at < colors.length; at++) {
                int stored = stored(image, at % image.getWidth(), at / image.getWidth());
                if (isTransparent(stored, transparent)) stored &= 0xffffff;
                colors[at] = multiplied(toSrgb(stored, space));
            }
            return Bitmap.createBitmap(colors, image.getWidth(), image.getHeight(), Bitmap.Config.ARGB_8888);
        }
    }

    /** 0xAARRGGBB as the file has it: Java would take grey for linear light. */
    private static int stored(BufferedImage image, int x, int y) {
        if (image.getColorModel() instanceof IndexColorModel) return image.getRGB(x, y);
        Raster raster = image.getRaster();
        int shift = raster.getSampleModel().getSampleSize(0) - 8;
        int[] samples = raster.getPixel(x, y, (int[]) null);
        int bands = samples.length;
        boolean isGrey = bands < 3;
        int alpha = bands % 2 == 0 ? samples[bands - 1] >> shift : 255;
        int red = samples[0] >> shift;
        int green = isGrey ? red : samples[1] >> shift;
        int blue = isGrey ? red : samples[2] >> shift;
        return alpha << 24 | red << 16 | green << 8 | blue;
    }

    private static ICC_ColorSpace colorSpace(BufferedImage image, IIOMetadata metadata) throws IOException {
        byte[] packed = (byte[]) userObject(metadata, "iCCP");
        if (packed != null) {
            try (InflaterInputStream unpacked = new InflaterInputStream(new ByteArrayInputStream(packed))) {
                return new ICC_ColorSpace(ICC_Profile.getInstance(unpacked.readAllBytes()));
            } catch (IllegalArgumentException error) {
                return null;
            }
        }
        ColorModel colors = image.getColorModel();
        boolean isOfProfile = colors.getNumComponents() > 2 && !colors.getColorSpace().isCS_sRGB();
        return isOfProfile ? (ICC_ColorSpace) colors.getColorSpace() : null;
    }

    private static int toSrgb(int color, ICC_ColorSpace space) {
        if (space == null) return color;
        float[] values = new float[space.getNumComponents()];
        for (int at = 0; at < values.length; at++) values[at] = (color >> 16 - 8 * at & 255) / 255f;
        float[] seen = space.toRGB(values);
        int result = color & 0xff000000;
        for (int at = 0; at < 3; at++) result |= Math.round(255 * seen[at]) << 16 - 8 * at;
        return result;
    }

    /** Multiplied by its alpha and divided again. */
    private static int multiplied(int color) {
        int alpha = color >>> 24;
        int result = color & 0xff000000;
        for (int shift = 0; shift < 24 && alpha > 0; shift += 8) {
            int level = Math.round((color >> shift & 255) * alpha / 255f);
            result |= Math.min(255, Math.round(level * 255f / alpha)) << shift;
        }
        return result;
    }

    /** Java passes over the one colour of a PNG that lets all light through. */
    private static byte[] transparentColor(IIOMetadata metadata) {
        Node node = find(metadata, "tRNS_RGB");
        if (node == null) return null;
        byte[] levels = new byte[3];
        String[] names = {"red", "green", "blue"};
        for (int at = 0; at < 3; at++) {
            levels[at] = (byte) Integer.parseInt(node.getAttributes().getNamedItem(names[at]).getNodeValue());
        }
        return levels;
    }

    private static boolean isTransparent(int color, byte[] levels) {
        if (levels == null) return false;
        return (byte) (color >> 16) == levels[0] && (byte) (color >> 8) == levels[1] && (byte) color == levels[2];
    }

    private static Object userObject(IIOMetadata metadata, String name) {
        Node node = find(metadata, name);
        return node == null ? null : ((IIOMetadataNode) node).getUserObject();
    }

    private static Node find(IIOMetadata metadata, String name) {
        Node root = metadata == null ? null : metadata.getAsTree(metadata.getNativeMetadataFormatName());
        return root == null ? null : find(root, name);
    }

    private static Node find(Node node, String name) {
        if (node.getNodeName().equals(name)) return node;
        for (Node child = node.getFirstChild(); child != null; child = child.getNextSibling()) {
            Node found = find(child, name);
            if (found != null) return found;
        }
        return null;
    }
}
